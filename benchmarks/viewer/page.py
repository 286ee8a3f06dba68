"""The viewer's page: one HTML file with its data, its style and its scripts inside, which loads nothing.

What models wrote is data: it stands in blocks of JSON that no parser of HTML leaves early, and is shown as text. The
page's content security policy runs only the scripts that were written here.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from html import escape
from pathlib import Path
from string import Template
from typing import Any

ASSETS = Path(__file__).parent
_SHARED = ("shared.js", "cells.js")
_SCRIPTS = {"page.html": (*_SHARED, "address.js", "filters.js", "main.js"), "training.html": (*_SHARED, "training.js")}
"""Page → its scripts, inlined in this order."""


def page(rollouts: Mapping[str, Any], pictures: Mapping[str, Any], template: str = "page.html") -> str:
    """Return a page.

    Args:
        rollouts: from :func:`benchmarks.viewer.rollouts.rollouts`, or for the template ``training.html`` from
            :func:`benchmarks.viewer.training.training_rollouts`.
        pictures: test set → its pictures, each set in a block of its own, which the page reads when it shows the set.
        template: name of the asset.
    """
    style, script = _asset("page.css"), "\n".join(_asset(name) for name in _SCRIPTS[template])
    blocks = [_block("rollouts", rollouts), *(_block(f"pictures-{name}", each) for name, each in pictures.items())]
    return Template(_asset(template)).substitute(
        policy=f"default-src 'none'; img-src data:; style-src {_source(style)}; script-src {_source(script)}",
        profile=escape(rollouts["profile"]),
        style=style,
        blocks="\n".join(blocks),
        script=script,
    )


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _source(content: str) -> str:
    """The source expression that allows exactly this content inline."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def _block(name: str, value: Any) -> str:
    # ASCII, because half a character of a model's text has no UTF-8.
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json" id="{escape(name)}">{text}</script>'
