"""What a prompt's plain text (block P) says of a figure: its kind, and the labels of its elements by family."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import get_args

from iapo.types import Box, Family, FigureKind

NOUN: Mapping[FigureKind, str] = {
    "h_bar": "chart",
    "v_bar": "chart",
    "table": "table",
    "subfigures": "figure",
}
"""Kind of figure → the noun that prompts use for it."""

Families = Mapping[Family, Mapping[str, Box]]
"""Family → label → box; no text has the boxes."""

FAMILY_WORDS: Mapping[Family, str] = {family: family.replace("_", " ") for family in get_args(Family)}
"""Family → its name in prompts."""


def full_context(kind: FigureKind, boxes: Families) -> str:
    """Return the kind of figure and all its families, each by name and by labels."""
    return f"{NOUN[kind]} .{''.join(_family(family, labels) for family, labels in boxes.items())}"


def short_context(kind: FigureKind, boxes: Families) -> str:
    """Return the same of the largest family alone, the first of several that are equally large."""
    largest = max(boxes, key=lambda family: len(boxes[family]), default=None)
    return full_context(kind, {} if largest is None else {largest: boxes[largest]})


def _family(family: Family, labels: Iterable[str]) -> str:
    return f" {FAMILY_WORDS[family]} : {' , '.join(labels)} ."
