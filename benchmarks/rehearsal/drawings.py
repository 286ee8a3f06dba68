"""Drawing of charts, tables and panels in the sizes of ReFocus's figures, with the boxes of their labels."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

Corners = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels."""

_DPI = 100
_MARGIN = 24
"""Distance of a table from the image's edges, px."""
_TABLE_STYLES = {
    "vwtq": ("white", "#eaecf0", "#202122", "#a2a9b1"),
    "vwtq_syn": ("#f7fbff", "#c6dbef", "#08306b", "#6baed6"),
    "vtabfact": ("white", "#f2f2f2", "#111111", "#999999"),
}
"""Test set → colours of background, header, ink and rules."""


@dataclass(frozen=True)
class Drawing:
    """An image with the boxes of its labels."""

    image: Image.Image
    labels: Mapping[str, Corners]
    """Bars by label; for tables, rows by their first cell, the header included."""
    columns: Mapping[str, Corners]
    """Columns by header, for tables only."""
    area: Corners
    """Box of the axes or the table."""


def bar_chart(
    kind: Literal["h_bar", "v_bar"], labels: Sequence[str], values: Sequence[int], title: str, size: tuple[int, int]
) -> Drawing:
    """Draw a bar chart with the values written at the bars.

    Args:
        kind: direction of the bars.
        labels: names of the bars.
        values: one value per label.
        title: title of the chart.
        size: width and height, px.
    """
    figure = _figure(size)
    figure.subplots_adjust(left=0.2 if kind == "h_bar" else 0.08, right=0.96, top=0.92, bottom=0.12)
    axes = figure.subplots()
    bars = axes.barh(labels, values, height=0.6) if kind == "h_bar" else axes.bar(labels, values, width=0.6)
    axes.bar_label(bars, padding=3)
    axes.set_title(title)
    if kind == "h_bar":
        axes.invert_yaxis()
        axes.set_xlim(0, 1.12 * max(values))
    else:
        axes.set_ylim(0, 1.12 * max(values))
        axes.tick_params(axis="x", labelrotation=30)
    image = _rendered(figure)
    left, top, right, bottom = _area(axes, image)
    edges = [_position(axes, image, kind, i - 0.5) for i in range(len(labels) + 1)]
    boxes: dict[str, Corners] = {}
    for i, label in enumerate(labels):
        # As in ReFocus: boxes of horizontal bars include the name, those of vertical bars reach the figure's edge.
        row = (5.0, edges[i], image.width - 5.0, edges[i + 1])
        boxes[label] = row if kind == "h_bar" else (edges[i], top, edges[i + 1], float(image.height - 5))
    return Drawing(image, boxes, {}, (left, top, right, bottom))


def panels(series: Sequence[Sequence[tuple[Sequence[str], Sequence[int], str]]], size: tuple[int, int]) -> Image.Image:
    """Draw a grid of line plots.

    Args:
        series: rows of panels; a panel is its labels, values and title.
        size: width and height, px.
    """
    figure = _figure(size)
    figure.subplots_adjust(left=0.06, right=0.97, top=0.94, bottom=0.06, wspace=0.2, hspace=0.25)
    grid = figure.subplots(len(series), len(series[0]), squeeze=False)
    for row, plots in zip(grid, series, strict=True):
        for axes, (labels, values, title) in zip(row, plots, strict=True):
            axes.plot(labels, values, marker="o")
            for label, value in zip(labels, values, strict=True):
                axes.annotate(str(value), (label, value), textcoords="offset points", xytext=(0, 5), ha="center")
            axes.set_title(title, fontsize=9)
            axes.tick_params(labelsize=7)
            axes.margins(x=0.12, y=0.25)
    return _rendered(figure)


def table(style: str, cells: Sequence[Sequence[str]], size: tuple[int, int]) -> Drawing:
    """Draw a ruled table.

    Args:
        style: test set whose colours to use.
        cells: rows of cells; the first row is the header.
        size: width and height, px.
    """
    background, header, ink, rules = _TABLE_STYLES[style]
    image = Image.new("RGB", size, background)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=17)
    xs = np.linspace(_MARGIN, size[0] - _MARGIN, len(cells[0]) + 1).round()
    ys = np.linspace(_MARGIN, size[1] - _MARGIN, len(cells) + 1).round()
    for i, row in enumerate(cells):
        for j, text in enumerate(row):
            place = (xs[j], ys[i], xs[j + 1], ys[i + 1])
            draw.rectangle(place, outline=rules, fill=header if i == 0 else None)
            middle = ((place[0] + place[2]) / 2, (place[1] + place[3]) / 2)
            draw.text(middle, text, fill=ink, font=font, anchor="mm")
    left, right, top, bottom = map(float, (xs[0], xs[-1], ys[0], ys[-1]))
    rows = {row[0]: (left, float(ys[i]), right, float(ys[i + 1])) for i, row in enumerate(cells)}
    columns = {name: (float(xs[j]), top, float(xs[j + 1]), bottom) for j, name in enumerate(cells[0])}
    return Drawing(image, rows, columns, (left, top, right, bottom))


def encoded(image: Image.Image, path: str) -> bytes:
    """Encode an image as JPEG or PNG, by the suffix of the path."""
    content = io.BytesIO()
    if path.endswith(".jpg"):
        image.save(content, "JPEG", quality=92)
    else:
        image.save(content, "PNG")
    return content.getvalue()


def _figure(size: tuple[int, int]) -> Figure:
    return Figure(figsize=(size[0] / _DPI, size[1] / _DPI), dpi=_DPI)


def _rendered(figure: Figure) -> Image.Image:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def _area(axes: Axes, image: Image.Image) -> Corners:
    box = axes.get_window_extent()
    return float(box.x0), float(image.height - box.y1), float(box.x1), float(image.height - box.y0)


def _position(axes: Axes, image: Image.Image, kind: str, place: float) -> float:
    """Pixel of a position on the axis of labels, from the left or the top."""
    point = (0, place) if kind == "h_bar" else (place, 0)
    x, y = axes.transData.transform(point)
    return float(image.height - y) if kind == "h_bar" else float(x)
