"""Bounding boxes: conversion of every form that raw records use into pixels, and detection of sub-figure panels.

Records give boxes keyed by label, as a list parallel to the labels, or as four columns, in fractions of the image or
in pixels. Irregularities are collected rather than raised, so that a report can list them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import cv2
import numpy as np
from PIL import Image

from iapo.data.records import IngestError, Record
from iapo.types import Box, Family

Unit = Literal["fraction", "pixel"]

Corners = tuple[float, float, float, float]
"""Left, top, right, bottom as the record gives them, in either unit."""

RawBox = Mapping[str, float] | Sequence[float]
"""A box in a record: keyed by corner, or the four coordinates in order."""

Boxes = dict[Family, dict[str, Box]]
"""Family → label → box in pixels."""

Oddity = Literal[
    "repeated label",
    "blank label",
    "label without a box",
    "box without a label",
    "box not finite",
    "box clipped",
    "box without area",
    "boxes in the other unit",
    "focus area without a label",
    "no boxes",
]
"""A kind of irregularity in a record that does not make it unusable."""

_CORNER_KEYS = ("x1", "y1", "x2", "y2")

_LARGEST_FRACTION = 1.5
"""Upper limit of a coordinate in fractions: boxes may extend slightly beyond the image, and none in pixels is as
small as this."""

_FARTHEST = 1e9
"""Distance from the image beyond which coordinates are cut, so that converting them cannot overflow."""

_BOX_TOLERANCE = 2
"""Largest difference between the corners of boxes that count as equal, px: only one of them may be rounded."""

_EDGE_THRESHOLDS = (100, 200)
"""ReFocus's hysteresis thresholds for Canny edge detection, in grey levels."""

_MAX_PANELS = 10

_PANEL_TOLERANCE = 10
"""Largest difference between a panel's width plus height and that of the largest panel, px."""

_LINE_WIDTH = 2
"""Largest distance between the two edges of the line that frames a panel, px."""


class BoxReader:
    """Reader of one record's boxes in any of their forms, which also collects their irregularities."""

    def __init__(self, record: Record, size: tuple[int, int]) -> None:
        """Prepare to read one record; ``size`` is the image's width and height, px."""
        self._record, self._size = record, size
        self.unit: Unit = "pixel"
        """Unit of the boxes in the record; set by :meth:`read`."""
        self.oddities: dict[Oddity, list[str]] = {}
        """Kind of irregularity → the labels concerned."""

    def read(self, fields: Mapping[Family, tuple[str, str]]) -> Boxes:
        """Return the record's boxes in pixels, clipped to the image.

        Args:
            fields: family → the names of the record's fields that hold its labels and its boxes.

        Returns:
            Family → label → box. Repeated labels are numbered, so that every box can be named; families and labels
            without a box are absent.

        Raises:
            IngestError: for a missing field or a malformed box.
        """
        corners_by_family = {family: self._corners_by_label(*names) for family, names in fields.items()}
        self.unit = _unit_of(corners for named in corners_by_family.values() for corners in named.values())
        boxes: Boxes = {}
        for family, named in corners_by_family.items():
            placed = {label: self._in_image(label, corners) for label, corners in named.items()}
            if kept := {label: box for label, box in placed.items() if box is not None}:
                boxes[family] = kept
        return boxes

    def focus_labels(self, boxes: Mapping[Family, Mapping[str, Box]]) -> tuple[str, ...]:
        """Return the annotated labels (``focus_areas``), which records give as labels or as boxes."""
        known = {label: box for labels in boxes.values() for label, box in labels.items()}
        areas = self._record.fields.get("focus_areas") or []
        labels: dict[str, None] = {}
        for area in list(areas) if _is_keyed(areas) else _rows(areas):
            label = _tidy(area) if isinstance(area, str) else self._nearest(area, known)
            if label in known:
                labels[label] = None
            else:
                self.note("focus area without a label", str(area))
        return tuple(labels)

    def note(self, oddity: Oddity, *labels: str) -> None:
        """Record an irregularity in :attr:`oddities`."""
        self.oddities.setdefault(oddity, []).extend(labels)

    def _nearest(self, area: RawBox, known: Mapping[str, Box]) -> str:
        corners = self._corners("focus_areas", area)
        if not _is_finite(corners):
            return ""
        wanted = _to_pixels(corners, self._size, self.unit)
        for label, box in known.items():
            if all(abs(a - b) <= _BOX_TOLERANCE for a, b in zip(box, wanted, strict=True)):
                return label
        return ""

    def _corners_by_label(self, labels_field: str, boxes_field: str) -> dict[str, Corners]:
        """Distinct label → corners, as the record gives them."""
        labels = [str(label) for label in self._record[labels_field]]
        boxes = self._record[boxes_field]
        if _is_keyed(boxes):
            self.note_all("repeated label", (label for i, label in enumerate(labels) if label in labels[:i]))
            self.note_all("box without a label", (label for label in boxes if label not in labels))
            pairs = [(label, boxes.get(label)) for label in dict.fromkeys(labels)]
        else:
            rows = _rows(boxes)
            self.note_all("box without a label", map(str, rows[len(labels) :]))
            pairs = list(zip(labels, [*rows, *[None] * len(labels)], strict=False))
        self.note_all("label without a box", (label for label, box in pairs if box is None))
        named: dict[str, Corners] = {}
        for label, box in pairs:
            if box is not None:
                named[self._distinct_label(label, named)] = self._corners(boxes_field, box)
        return named

    def note_all(self, oddity: Oddity, labels: Iterable[str]) -> None:
        """Record an irregularity in :attr:`oddities` if it concerns any label."""
        if found := list(labels):
            self.note(oddity, *found)

    def _distinct_label(self, label: str, taken: Mapping[str, Corners]) -> str:
        tidy = _tidy(label)
        if not tidy:
            self.note("blank label", label)
            tidy = "(blank)"
        if tidy not in taken:
            return tidy
        self.note("repeated label", tidy)
        return next(name for i in range(2, len(taken) + 3) if (name := f"{tidy} ({i})") not in taken)

    def _corners(self, name: str, box: RawBox) -> Corners:
        try:
            values = [box[corner] for corner in _CORNER_KEYS] if isinstance(box, Mapping) else list(box)
            left, top, right, bottom = (float(value) for value in values)
        except (KeyError, OverflowError, TypeError, ValueError):
            raise IngestError(f"{self._record.where}: {name} holds {box!r}; expected x1, y1, x2 and y2") from None
        return left, top, right, bottom

    def _in_image(self, label: str, corners: Corners) -> Box | None:
        if not _is_finite(corners):
            self.note("box not finite", label)
            return None
        box = _to_pixels(corners, self._size, self.unit)
        clipped = _clipped(box, self._size)
        if clipped is None:
            self.note("box without area", label)
        elif clipped != box:
            self.note("box clipped", label)
        return clipped


def _tidy(label: str) -> str:
    """Collapse white space to single spaces, as a model will write the label."""
    return " ".join(label.split())


def _is_keyed(boxes: object) -> bool:
    """Whether boxes are keyed by label rather than by corner."""
    return isinstance(boxes, Mapping) and not _is_columns(boxes)


def _is_columns(boxes: Mapping[str, object]) -> bool:
    return set(boxes) == set(_CORNER_KEYS) and all(isinstance(column, list) for column in boxes.values())


def _rows(boxes: Any) -> list[Any]:
    """One box per element; the four columns in which Arrow stores a list of boxes are transposed."""
    if isinstance(boxes, Mapping):
        columns = [boxes[name] for name in _CORNER_KEYS]
        return [dict(zip(_CORNER_KEYS, row, strict=True)) for row in zip(*columns, strict=True)]
    return list(boxes)


def _is_finite(corners: Corners) -> bool:
    return all(map(math.isfinite, corners))


def _unit_of(boxes: Iterable[Corners]) -> Unit:
    """The unit that most boxes have, so that a single wrong box does not decide about the others."""
    small = [max(map(abs, corners)) <= _LARGEST_FRACTION for corners in boxes if _is_finite(corners)]
    return "fraction" if 2 * sum(small) >= len(small) else "pixel"


def _to_pixels(corners: Corners, size: tuple[int, int], unit: Unit) -> Box:
    width, height = size if unit == "fraction" else (1, 1)
    left, top, right, bottom = (min(max(value, -_FARTHEST), _FARTHEST) for value in corners)
    return round(left * width), round(top * height), round(right * width), round(bottom * height)


def _clipped(box: Box, size: tuple[int, int]) -> Box | None:
    left, top = max(0, box[0]), max(0, box[1])
    right, bottom = min(size[0], box[2]), min(size[1], box[3])
    return (left, top, right, bottom) if right > left and bottom > top else None


def find_panels(image: Image.Image) -> dict[str, Box]:
    """Detect the panels of a multi-panel figure, following ReFocus.

    Of the ten longest external contours of the Canny edges, those about as large as the largest are panels. Unlike
    ReFocus, the image is not blurred first: that moves the edges and is not needed. With lower thresholds JPEG noise
    joins or breaks frames. Where ink touches a frame, the outer edge of its line breaks into pieces, and only the inner
    one is as large as a panel: a panel's box also covers all pieces of edges around it.

    Args:
        image: the figure, in any mode.

    Returns:
        ``row <i> column <j>`` → box in pixels; empty where no contour is found.
    """
    edges = cv2.Canny(np.asarray(image.convert("L")), *_EDGE_THRESHOLDS)
    contours, _ = cv2.findContours(edges, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    longest = sorted(contours, key=lambda c: -cv2.arcLength(c, True))[:_MAX_PANELS]
    boxes = [_bounds(contour) for contour in longest]
    largest = max(map(_extent, boxes), default=0)
    panels = [box for box in boxes if largest - _extent(box) <= _PANEL_TOLERANCE]
    outer = [panel for panel in panels if not _inside_another(panel, panels)]
    edges_of_lines = list(map(_bounds, contours))
    return _by_position([_with_frame(panel, edges_of_lines) for panel in outer])


def _bounds(contour: Any) -> Box:
    left, top, width, height = cv2.boundingRect(contour)
    return left, top, left + width, top + height


def _extent(box: Box) -> int:
    """Width plus height, px."""
    return box[2] - box[0] + box[3] - box[1]


def _with_frame(panel: Box, edges: Sequence[Box]) -> Box:
    """Extend a panel to all edges that lie within the width of a line around it."""
    limits = tuple(side + sign * _LINE_WIDTH for side, sign in zip(panel, (-1, -1, 1, 1), strict=True))
    frame = [panel, *(edge for edge in edges if _contains(limits, edge))]
    lefts, tops, rights, bottoms = zip(*frame, strict=True)
    return min(lefts), min(tops), max(rights), max(bottoms)


def _contains(box: Sequence[int], other: Box) -> bool:
    return box[0] <= other[0] and box[1] <= other[1] and box[2] >= other[2] and box[3] >= other[3]


def _inside_another(panel: Box, panels: Sequence[Box]) -> bool:
    """Whether a box lies in another: a frame has an outer and an inner contour, of which the outer is the panel."""
    return any(other != panel and _contains(other, panel) for other in panels)


def _by_position(panels: Sequence[Box]) -> dict[str, Box]:
    """Label panels by row and column: a panel that starts above the middle of the row's first one joins that row."""
    labelled: dict[str, Box] = {}
    rows: list[list[Box]] = []
    for panel in sorted(panels, key=lambda box: (box[1], box[0])):
        if rows and panel[1] < (rows[-1][0][1] + rows[-1][0][3]) / 2:
            rows[-1].append(panel)
        else:
            rows.append([panel])
    for i, row in enumerate(rows, start=1):
        for j, panel in enumerate(sorted(row), start=1):
            labelled[f"row {i} column {j}"] = panel
    return labelled
