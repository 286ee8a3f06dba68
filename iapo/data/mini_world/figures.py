"""Drawing of the mini world's figures on a grid of 28-px cells.

A cell is as large as one merged vision token, so that each token sees exactly one label or value: a simplification
that lets a tiny model read figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from PIL import Image, ImageDraw, ImageFont

CELL = 28
"""Side of a cell, px: patch size 14 × merge size 2."""

Bar = Literal["horizontal", "vertical"]
"""Direction of a bar."""

CellContent = tuple[str, Bar | None]
"""Text of a cell, and the direction of the bar that replaces it; None to write the text."""

_FULL_BAR = 100
"""Value whose bar fills the cell."""

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


"""Test set → background and ink colour."""

_PANEL_INSET = 3
"""Distance of a panel's frame from the edges of its cells, px."""


@dataclass(frozen=True)
class Grid:
    """The content of one figure: rows of cells, drawn in the style of its test set."""

    test_set: str
    rows: tuple[tuple[CellContent, ...], ...]
    panels: bool = False
    """Whether each pair of cells in a row is framed as one panel."""


@lru_cache(maxsize=4096)
def cell(text: str, bar: Bar | None, test_set: str) -> Image.Image:
    """Return one cell, 28×28 px RGB. The image is cached and shared: copy it before drawing on it."""
    background, ink = _STYLE[test_set]
    image = Image.new("RGB", (CELL, CELL), background)
    draw = ImageDraw.Draw(image)
    if test_set != "charxiv":
        draw.rectangle((0, 0, CELL - 1, CELL - 1), outline="lightgray")
    if bar is not None:
        length = int(text) * (CELL - 4) // _FULL_BAR
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
    """Draw the figure as an RGB image, whose sides are multiples of 28 px."""
    width, height = len(grid.rows[0]) * CELL, len(grid.rows) * CELL
    image = Image.new("RGB", (width, height), "white")
    for i, row in enumerate(grid.rows):
        for j, (text, bar) in enumerate(row):
            image.paste(cell(text, bar, grid.test_set), (j * CELL, i * CELL))
    if grid.panels:
        _frame_panels(image)
    return image


def _frame_panels(image: Image.Image) -> None:
    """Frame each pair of cells, with gaps between the frames so that each is a contour of its own."""
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
    """Lay out the cells of a figure.

    Args:
        test_set: determines layout and style.
        labels: names of the bars, rows or columns; for panels, the names written inside them.
        values: one value per label.
        title: header of a table's value column, or name of its only row.
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
