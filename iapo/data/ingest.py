"""Read ReFocus's raw layout: records in a dict by id, boxes as fractions or pixels, figures beside them.

Every box is converted to pixels here, once.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from iapo.data.hints import hint_text
from iapo.data.mini import RAW_FILES
from iapo.types import TEST_SETS, Box, Example, Family, Figure, FigureKind, Metric, Split

_KIND: Mapping[str, FigureKind] = {
    "charxiv": "subfigures",
    "h_bar": "h_bar",
    "v_bar": "v_bar",
    "vwtq": "table",
    "vwtq_syn": "table",
    "vtabfact": "table",
}
_METRIC: Mapping[str, Metric] = {"h_bar": "relaxed", "v_bar": "relaxed", "vtabfact": "fact"}
_NOUN: Mapping[FigureKind, str] = {
    "h_bar": "chart",
    "v_bar": "chart",
    "table": "table",
    "subfigures": "figure",
}
_MOST_PANELS = 10
_PANEL_TOLERANCE = 10
"""How far a sub-figure's width plus height may be from the largest one's, px."""


class IngestError(ValueError):
    """A raw file is not what it should be; the message names file, record and field."""


def ingest(root: Path, split: Split) -> dict[str, list[Example]]:
    """All examples of a split, by test set.

    Args:
        root: of the raw layout, as :func:`iapo.data.mini.write_raw` writes it.
        split: the folder to read.

    Raises:
        IngestError: for a missing file, field or figure.
    """
    return {test_set: _ingest_set(root / split, test_set, split) for test_set in TEST_SETS}


def _ingest_set(folder: Path, test_set: str, split: Split) -> list[Example]:
    path = folder / RAW_FILES[test_set]
    try:
        records = json.loads(path.read_text())
    except FileNotFoundError:
        raise IngestError(f"{path}: not found; expected the records of {test_set}") from None
    return [_example(_Record(path, name, fields), folder, test_set, split) for name, fields in records.items()]


class _Record:
    """One raw record, whose missing fields name themselves."""

    def __init__(self, path: Path, name: str, fields: Mapping[str, Any]) -> None:
        self.path, self.name, self.fields = path, name, fields

    def __getitem__(self, field: str) -> Any:
        if field not in self.fields:
            raise IngestError(
                f"{self.path}, record {self.name!r}: field {field!r} not found among {sorted(self.fields)}"
            )
        return self.fields[field]


def _example(record: _Record, folder: Path, test_set: str, split: Split) -> Example:
    kind = _KIND[test_set]
    path = folder / record["figure_path"]
    if not path.exists():
        raise IngestError(f"{record.path}, record {record.name!r}: figure {path} not found")
    png = path.read_bytes()
    image = Image.open(io.BytesIO(png))
    boxes = _BOXES[kind](record, image)
    return Example(
        example_id=record.name,
        test_set=test_set,
        split=split,
        figure=Figure(record.name, kind, boxes),
        image_png=png,
        context=_context(kind, boxes) + (hint_text(record["hint"]) if "hint" in record.fields else ""),
        request=record["prompt" if kind == "subfigures" else "query"],
        answer=record["answer"],
        metric=_METRIC.get(test_set, "exact"),
        focus_labels=tuple(record.fields.get("focus_areas", ())),
    )


def _context(kind: FigureKind, boxes: Mapping[Family, Mapping[str, Box]]) -> str:
    """Block P: the kind of figure and the labels of its longest family."""
    labels = max(boxes.values(), key=len)
    return f"{_NOUN[kind]} : {' , '.join(labels)} ."


def _chart_boxes(record: _Record, image: Image.Image) -> dict[Family, dict[str, Box]]:
    families: dict[Family, str] = {"x_values": "x", "y_values": "y"}
    return {
        family: {label: to_pixels(record[f"{axis}_bboxes"][label], image.size) for label in record[f"{axis}_values"]}
        for family, axis in families.items()
        if record[f"{axis}_values"]
    }


def _table_boxes(record: _Record, image: Image.Image) -> dict[Family, dict[str, Box]]:
    def pixels(labels: Sequence[str], boxes: Sequence[Mapping[str, float]]) -> dict[str, Box]:
        return {label: to_pixels(box, image.size) for label, box in zip(labels, boxes, strict=True)}

    return {
        "rows": pixels(record["row_starters"], record["rows_bbox"]),
        "columns": pixels(record["column_headers"], record["columns_bbox"]),
    }


def _panel_boxes(record: _Record, image: Image.Image) -> dict[Family, dict[str, Box]]:
    return {"subfigures": find_panels(image)}


_BOXES: Mapping[FigureKind, Callable[[_Record, Image.Image], dict[Family, dict[str, Box]]]] = {
    "h_bar": _chart_boxes,
    "v_bar": _chart_boxes,
    "table": _table_boxes,
    "subfigures": _panel_boxes,
}


def to_pixels(box: Mapping[str, float], size: tuple[int, int]) -> Box:
    """A box in fractions of the image (ReFocus's ``_wbb`` files) as pixels."""
    width, height = size
    return (
        round(box["x1"] * width),
        round(box["y1"] * height),
        round(box["x2"] * width),
        round(box["y2"] * height),
    )


def find_panels(image: Image.Image) -> dict[str, Box]:
    """Candidate sub-figures, labelled by position, as ReFocus finds them.

    Canny edges, external contours, the ten longest, of those the ones about as large as the largest.
    """
    edges = cv2.Canny(np.asarray(image.convert("L")), 50, 150)
    contours, _ = cv2.findContours(edges, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    longest = sorted(contours, key=lambda c: -cv2.arcLength(c, True))[:_MOST_PANELS]
    boxes = [cv2.boundingRect(contour) for contour in longest]
    largest = max((w + h for _, _, w, h in boxes), default=0)
    panels = [(x, y, x + w, y + h) for x, y, w, h in boxes if abs(w + h - largest) <= _PANEL_TOLERANCE]
    return _by_position([panel for panel in panels if not _inside_another(panel, panels)])


def _inside_another(panel: Box, panels: Sequence[Box]) -> bool:
    """A frame has an outer and an inner edge; the outer one is the panel."""
    return any(
        other != panel
        and other[0] <= panel[0]
        and other[1] <= panel[1]
        and other[2] >= panel[2]
        and other[3] >= panel[3]
        for other in panels
    )


def _by_position(panels: Sequence[Box]) -> dict[str, Box]:
    """Rows are panels whose vertical centres lie within each other; columns follow from left to right."""
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
