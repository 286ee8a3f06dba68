"""Drawing of the mini world's figures on a grid of 28-px cells.

A cell is as large as one merged vision token, so that each token sees exactly one label or value: a simplification
that lets a tiny model read figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from PIL import Image, ImageColor, ImageDraw, ImageFont

from iapo.data.mini_world.vocabulary import PANEL_COLUMNS
from iapo.types import Box

CELL = 28
"""Side of a cell, px: patch size 14 × merge size 2."""

Look = Literal["text", "horizontal", "vertical", "smudge"]
"""How a cell shows its text: in print, as the length of a bar, or not at all, since a smudge covers it."""

CellContent = tuple[str, Look]
"""Text of a cell, and how it is shown."""

_FULL_BAR = 100
"""Value whose bar fills the cell."""

_NUMBER_SIZE, _NAME_SIZE = 12, 9
_PANEL_NAME_SIZE = 7
"""Size of a name in a panel, which must not touch the frame that its panel is found by."""

NAME_LETTERS = 4
"""Letters of a name that a cell has room for."""

_SMUDGE = (5, 8, 20, 20)
"""Corners of the ellipse that covers a value, px."""

_SMUDGE_COLOUR = "#8a8a80"

_STYLE = {
    "h_bar": ("white", "black"),
    "v_bar": ("white", "black"),
    "vwtq": ("white", "black"),
    "vwtq_syn": ("#e8eef8", "#102060"),
    "vtabfact": ("white", "#202020"),
    "charxiv": ("#fbfbf4", "black"),
}


"""Test set → background and ink colour."""

_PANEL_INSET = 2
"""Distance of a panel's frame from the edges of its cells, px."""


@dataclass(frozen=True)
class Grid:
    """The content of one figure: rows of cells, drawn in the style of its test set."""

    test_set: str
    rows: tuple[tuple[CellContent, ...], ...]
    panels: bool = False
    """Whether each pair of cells in a row is framed as one panel."""


@lru_cache(maxsize=4096)
def cell(text: str, look: Look, test_set: str) -> Image.Image:
    """Return one cell, 28×28 px RGB. The image is cached and shared: copy it before drawing on it."""
    background, ink = _STYLE[test_set]
    image = Image.new("RGB", (CELL, CELL), background)
    draw = ImageDraw.Draw(image)
    if test_set != "charxiv":
        draw.rectangle((0, 0, CELL - 1, CELL - 1), outline="lightgray")
    if look == "smudge":
        draw.ellipse(_SMUDGE, fill=_SMUDGE_COLOUR)
    elif look != "text":
        length = int(text) * (CELL - 4) // _FULL_BAR
        area = (2, 9, 2 + length, 19) if look == "horizontal" else (9, CELL - 3 - length, 19, CELL - 3)
        draw.rectangle(area, fill="steelblue")
    elif text:
        is_number = text.isdigit() and len(text) == 2
        font = _font(_NUMBER_SIZE if is_number else _PANEL_NAME_SIZE if test_set == "charxiv" else _NAME_SIZE)
        draw.text(
            (CELL / 2, CELL / 2),
            text if is_number else text[:NAME_LETTERS],
            fill=ink,
            font=font,
            anchor="mm",
        )
    return image


def is_smudged(figure: Image.Image, box: Box) -> bool:
    """Return whether a smudge covers a value inside a box of a drawn RGB figure."""
    area = figure.crop(box)
    colours = area.getcolors(maxcolors=area.width * area.height) or ()
    return any(colour == ImageColor.getrgb(_SMUDGE_COLOUR) for _, colour in colours)


@lru_cache(maxsize=3)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)


def draw(grid: Grid) -> Image.Image:
    """Draw the figure as an RGB image, whose sides are multiples of 28 px."""
    width, height = len(grid.rows[0]) * CELL, len(grid.rows) * CELL
    image = Image.new("RGB", (width, height), "white")
    for i, row in enumerate(grid.rows):
        for j, (text, look) in enumerate(row):
            image.paste(cell(text, look, grid.test_set), (j * CELL, i * CELL))
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


def figure_grid(
    test_set: str, labels: Sequence[str], values: Sequence[int], title: str, smudged: Sequence[bool]
) -> Grid:
    """Lay out the cells of a figure.

    Args:
        test_set: determines layout and style.
        labels: names of the bars, rows or columns; for panels, the names written inside them.
        values: one value per label.
        title: header of a table's value column, or name of its only row.
        smudged: whether each label's value cannot be read.
    """

    def shown(look: Look) -> list[CellContent]:
        return [(str(value), "smudge" if bad else look) for value, bad in zip(values, smudged, strict=True)]

    names: list[CellContent] = [(label, "text") for label in labels]
    numbers = shown("text")
    blank: CellContent = ("", "text")
    header: CellContent = (title, "text")
    rows: list[Sequence[CellContent]]
    if test_set == "h_bar":
        rows = list(zip(names, shown("horizontal"), numbers, strict=True))
    elif test_set == "v_bar":
        rows = [numbers, shown("vertical"), names]
    elif test_set == "vwtq_syn":
        rows = [[blank, *names], [header, *numbers]]
    elif test_set == "charxiv":
        pairs = [part for pair in zip(names, numbers, strict=True) for part in pair]
        width = 2 * PANEL_COLUMNS
        rows = [pairs[start : start + width] for start in range(0, len(pairs), width)]
    else:
        rows = [(blank, header), *zip(names, numbers, strict=True)]
    return Grid(test_set, tuple(tuple(row) for row in rows), panels=test_set == "charxiv")
