"""Figures on a grid of 28-px cells, so that one merged vision token sees one cell (a mini concession)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from PIL import Image, ImageDraw, ImageFont

CELL = 28
"""Side of a cell, px: patch size 14 times merge size 2."""

Bar = Literal["horizontal", "vertical"]
CellContent = tuple[str, Bar | None]
"""Text of a cell, and how its value is drawn as a bar instead."""

_LARGEST = 100
_NUMBER_SIZE, _NAME_SIZE = 12, 9
_NAME_LETTERS = 4
_STYLE = {
    "h_bar": ("white", "black"),
    "v_bar": ("white", "black"),
    "vwtq": ("white", "black"),
    "vwtq_syn": ("#e8eef8", "#102060"),
    "vtabfact": ("white", "#202020"),
    "charxiv": ("#fbfbf4", "black"),
}
_PANEL_INSET = 3


@dataclass(frozen=True)
class Grid:
    """What to draw: rows of cells, in one test set's style."""

    test_set: str
    rows: tuple[tuple[CellContent, ...], ...]
    panels: bool = False
    """Whether every two cells of a row are framed as one panel."""


@lru_cache(maxsize=4096)
def cell(text: str, bar: Bar | None, test_set: str) -> Image.Image:
    """One cell, 28×28 px RGB. Shared: copy before drawing on it."""
    background, ink = _STYLE[test_set]
    image = Image.new("RGB", (CELL, CELL), background)
    draw = ImageDraw.Draw(image)
    if test_set != "charxiv":
        draw.rectangle((0, 0, CELL - 1, CELL - 1), outline="lightgray")
    if bar is not None:
        length = int(text) * (CELL - 4) // _LARGEST
        area = (2, 9, 2 + length, 19) if bar == "horizontal" else (9, CELL - 3 - length, 19, CELL - 3)
        draw.rectangle(area, fill="steelblue")
    elif text:
        is_number = text.isdigit() and len(text) == 2
        font = _font(_NUMBER_SIZE if is_number else _NAME_SIZE)
        draw.text(
            (CELL / 2, CELL / 2),
            text if is_number else text[:_NAME_LETTERS],
            fill=ink,
            font=font,
            anchor="mm",
        )
    return image


@lru_cache(maxsize=2)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)


def draw(grid: Grid) -> Image.Image:
    """The figure as an RGB image; its sides are multiples of 28 px."""
    width, height = len(grid.rows[0]) * CELL, len(grid.rows) * CELL
    image = Image.new("RGB", (width, height), "white")
    for i, row in enumerate(grid.rows):
        for j, (text, bar) in enumerate(row):
            image.paste(cell(text, bar, grid.test_set), (j * CELL, i * CELL))
    if grid.panels:
        _frame_panels(image)
    return image


def _frame_panels(image: Image.Image) -> None:
    """A dark frame around every two cells, with room between frames so that each is its own contour."""
    draw = ImageDraw.Draw(image)
    for top in range(0, image.height, CELL):
        for left in range(0, image.width, 2 * CELL):
            area = (left, top, left + 2 * CELL - 1, top + CELL - 1)
            inset = (1, 1, -1, -1)
            draw.rectangle(
                tuple(a + _PANEL_INSET * i for a, i in zip(area, inset, strict=True)),
                outline="#303030",
            )


def figure_grid(test_set: str, labels: Sequence[str], values: Sequence[int], title: str) -> Grid:
    """The layout of each set.

    Args:
        test_set: decides layout and style.
        labels: bars, rows, columns or (for panels) the names inside them.
        values: one per label.
        title: the header of a table's value column, or the name of its only row.
    """
    names = [(label, None) for label in labels]
    numbers = [(str(value), None) for value in values]
    blank: CellContent = ("", None)
    rows: list[Sequence[CellContent]]
    if test_set == "h_bar":
        bars: list[CellContent] = [(str(value), "horizontal") for value in values]
        rows = list(zip(names, bars, numbers, strict=True))
    elif test_set == "v_bar":
        rows = [numbers, [(str(value), "vertical") for value in values], names]
    elif test_set == "vwtq_syn":
        rows = [[blank, *names], [(title, None), *numbers]]
    elif test_set == "charxiv":
        pairs = [part for pair in zip(names, numbers, strict=True) for part in pair]
        rows = [pairs[:4], pairs[4:]]
    else:
        rows = [(blank, (title, None)), *zip(names, numbers, strict=True)]
    return Grid(test_set, tuple(tuple(row) for row in rows), panels=test_set == "charxiv")
