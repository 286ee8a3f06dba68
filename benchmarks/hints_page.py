"""The study with hints as part of ``docs/hints.md``, from its pages that are checked in."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

PAGES = {"Intel": "{}.md", "AMD": "{}_amd.md"}
"""Processor → page of a profile in ``results/reference``."""


def hints_block(profile: str, reference: Path) -> str:
    """Return a profile's differences in accuracy, a processor a column, and what shares tell of reliance.

    Args:
        profile: ``mechanism`` or ``mechanism_thought``.
        reference: folder of the pages that are checked in.
    """
    pages = {name: (reference / page.format(profile)).read_text() for name, page in PAGES.items()}
    columns = {name: _accuracies(text) for name, text in pages.items()}
    table = pd.DataFrame(columns).rename_axis(["condition", "against"]).reset_index()
    reliance = [
        f"- {name}: {line}" for name, text in pages.items() for line in re.findall(r"^- (Share .*)$", text, re.M)
    ]
    return "\n".join([table.to_markdown(index=False, disable_numparse=True), "", *reliance])


def _accuracies(page: str) -> dict[tuple[str, str], str]:
    """Condition and control → difference of their accuracies in points, and its verdict unless there is none."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("|")]
    return {
        (row[0], row[1]): _points(row[3]) + ("" if row[4].startswith("no ") else f" **{row[4]}**")
        for row in rows
        if len(row) == 5 and row[2] == "score"
    }


def _points(shares: str) -> str:
    """Return the text with its differences in [-1, 1] as percentage points."""
    return re.sub(r"[+-]\d\.\d+", lambda found: f"{100 * float(found[0]):+.1f}", shares)
