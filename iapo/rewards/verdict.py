"""Parser of a judge's verdict, from structured output or from the beginning of a text; linear in the reply's length."""

from __future__ import annotations

import json
import re
from typing import Any

RESPONSE_FORMAT = {
    "type": "json_schema",
    "json_schema": {
        "name": "verdict",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"verdict": {"type": "integer", "enum": [0, 1]}},
            "required": ["verdict"],
            "additionalProperties": False,
        },
    },
}
"""Structured output that a server is asked for."""


# A single digit followed by the end, punctuation or an explanation; not 10, 0.5, 1/2, "1 or 0" or "1 label is off".
_VERDICT = re.compile(
    r"""
    [\s*_`"'(\[]*
    (?P<verdict>[01])
    [*_`"')\]]*
    (?:
        \s*\Z
      | [ \t]*\n
      | [.:;,!]+ [*_`"']* (?:\s|\Z)
      | \s+ [–—-] \s
      | \s+ (?:because|since|as)\b
      | \s+ [(]
      | \s+ (?!(?:OR|AND|OF|OUT|TO|Or|And|Of|Out|To)\b) [A-Z]
    )
    (?!\s*[01]\b)
    """,
    re.VERBOSE,
)


_SECOND_POINT = re.compile(r"^[^\w\n]*2[.:)]", re.MULTILINE)
"""The second item of a numbered list, whose leading 1 is not a verdict. What leads to it ends with its line: a search
that went on to the next lines, and began again at each, would take quadratic time."""


_FENCE = "```"


def parse_verdict(text: str) -> float | None:
    """Parse the verdict of a reply: the JSON object that was asked for, or what the text begins with.

    Args:
        text: a model's reply, without its thinking.

    Returns:
        1.0 or 0.0; None for a reply that does not give exactly one of them.

    Example:
        >>> parse_verdict('{"verdict": 1}'), parse_verdict("0 because 10 differs"), parse_verdict("10")
        (1.0, 0.0, None)
    """
    unfenced = text.strip().removeprefix(_FENCE).removeprefix("json").lstrip()
    if unfenced.startswith("{"):
        return _structured(unfenced)
    found = _VERDICT.match(text)
    return float(found["verdict"]) if found and not _SECOND_POINT.search(text) else None


def _structured(text: str) -> float | None:
    """The verdict of a text that begins with a JSON object; None where it or a second one says something else."""
    try:
        found, end = json.JSONDecoder(object_pairs_hook=_unique).raw_decode(text)
    except (ValueError, RecursionError):
        return None
    verdict = found.get("verdict")
    if not isinstance(verdict, int | float) or verdict not in (0, 1) or "verdict" in text[end:]:
        return None
    return float(verdict)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, refused if it names a key twice.

    Raises:
        ValueError: for a key that comes twice.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key comes twice")
    return found
