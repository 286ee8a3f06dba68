"""Ingestion: conversion of one raw record in ReFocus's format into an example, shared by every source.

Sources differ in file layout and field names; each maps its records to the format that :func:`read_record` takes,
where boxes are converted to pixels once.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image, ImageFile

from iapo.data.boxes import Boxes, BoxReader, Oddity, Unit, find_panels
from iapo.data.mini_world.hints import hint_text
from iapo.data.mini_world.world import RAW_FILES
from iapo.data.records import IngestError, LeftOutError, Record
from iapo.types import TEST_SETS, Box, Example, Family, Figure, FigureKind, Metric, Split

KIND: Mapping[str, FigureKind] = {
    "charxiv": "subfigures",
    "h_bar": "h_bar",
    "v_bar": "v_bar",
    "vwtq": "table",
    "vwtq_syn": "table",
    "vtabfact": "table",
}
"""Test set → kind of its figures."""

NOUN: Mapping[FigureKind, str] = {
    "h_bar": "chart",
    "v_bar": "chart",
    "table": "table",
    "subfigures": "figure",
}
"""Kind of figure → the noun that prompts use for it."""

_METRIC: Mapping[str, Metric] = {"h_bar": "relaxed", "v_bar": "relaxed", "vtabfact": "fact"}

_CHART_FIELDS: Mapping[Family, tuple[str, str]] = {
    "x_values": ("x_values", "x_bboxes"),
    "y_values": ("y_values", "y_bboxes"),
}

_FIELDS: Mapping[FigureKind, Mapping[Family, tuple[str, str]]] = {
    "h_bar": _CHART_FIELDS,
    "v_bar": _CHART_FIELDS,
    "table": {"rows": ("row_starters", "rows_bbox"), "columns": ("column_headers", "columns_bbox")},
}
"""Kind of figure → family → names of the record's fields that hold its labels and its boxes."""

_TRUTHS = {"1": "1", "true": "1", "0": "0", "false": "0"}


@dataclass(frozen=True)
class Reading:
    """An example, with what was found about its record."""

    example: Example
    signature: str
    """sha256 of the image's size and pixels: equal for all questions about one figure, in any file format."""
    unit: Unit | None
    """Unit of the record's boxes; None where it has none, or where they were detected in the image."""
    oddities: Mapping[Oddity, list[str]]
    """Kind of irregularity → the labels concerned."""


def ingest(root: Path, split: Split) -> dict[str, list[Example]]:
    """Return all examples of one split of the mini world, by test set.

    Args:
        root: raw directory, as written by :func:`iapo.data.mini_world.world.write_raw`.
        split: which split to read.

    Raises:
        IngestError: for a missing file, field or figure, and for any irregularity, since the mini world's own records
            must have none.
    """
    return {test_set: list(_ingest_set(root / split, test_set, split)) for test_set in TEST_SETS}


def _ingest_set(folder: Path, test_set: str, split: Split) -> Iterator[Example]:
    path = folder / RAW_FILES[test_set]
    try:
        records = json.loads(path.read_text())
    except FileNotFoundError:
        raise IngestError(f"{path}: not found; expected the records of {test_set}") from None
    for name, fields in records.items():
        record = Record(path, name, fields)
        figure = folder / record["figure_path"]
        if not figure.exists():
            raise IngestError(f"{record.where}: figure {figure} not found")
        reading = read_record(record, figure.read_bytes(), test_set=test_set, split=split)
        if reading.oddities:
            raise IngestError(f"{record.where}: found {dict(reading.oddities)}; expected a box for every label")
        hint = hint_text(fields["hint"]) if "hint" in fields else ""
        yield replace(reading.example, context=reading.example.context + hint)


def read_record(record: Record, picture: bytes, *, test_set: str, split: Split) -> Reading:
    """Convert a raw record into an example.

    Args:
        record: a record with ReFocus's fields: ``query`` (``prompt`` for sub-figures), ``answer``, the labels and
            boxes of its kind of figure, and, where annotated, ``focus_areas`` as labels or boxes. Boxes are keyed by
            label, listed in the order of the labels, or given as four columns; whether they are fractions of the
            image or pixels is inferred from their size.
        picture: the encoded image file.
        test_set: determines the kind of figure and the metric.
        split: the split to assign to the example.

    Returns:
        The example, with the record's name as its id and the mini world's context, and the record's irregularities.

    Raises:
        LeftOutError: if the image cannot be decoded or has no panels, or the record has no question or no usable
            answer.
        IngestError: for a missing field or a malformed box.
    """
    kind = KIND[test_set]
    image = _opened(record, picture)
    reader = BoxReader(record, image.size)
    boxes: Boxes = {"subfigures": _panels(record, image)} if kind == "subfigures" else reader.read(_FIELDS[kind])
    if not boxes:
        reader.note("no boxes")
    metric = _METRIC.get(test_set, "exact")
    example = Example(
        example_id=record.name,
        test_set=test_set,
        split=split,
        figure=Figure(record.name, kind, boxes),
        image_png=picture,
        context=_context(kind, boxes),
        request=_request(record, "prompt" if kind == "subfigures" else "query"),
        answer=_gold_answer(record, metric),
        metric=metric,
        focus_labels=reader.focus_labels(boxes),
    )
    unit = reader.unit if boxes and kind != "subfigures" else None
    return Reading(example, _signature(image), unit, reader.oddities)


def _opened(record: Record, picture: bytes) -> Image.Image:
    # lmms-eval allows truncated images in its whole process, which would let half a figure pass for a whole one.
    lenient, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
    try:
        image = Image.open(io.BytesIO(picture))
        image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise LeftOutError(record, "unreadable figure", f"its figure does not open ({error})") from None
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = lenient
    return image


def _signature(image: Image.Image) -> str:
    digest = hashlib.sha256(repr(image.size).encode())
    digest.update(image.convert("RGB").tobytes())
    return digest.hexdigest()


def _panels(record: Record, image: Image.Image) -> dict[str, Box]:
    panels = find_panels(image)
    if not panels:
        raise LeftOutError(record, "no panel", "its figure has no contour that could be a panel")
    return panels


def _context(kind: FigureKind, boxes: Boxes) -> str:
    """The text of block P: the kind of figure and the labels of its largest family."""
    labels = max(boxes.values(), key=len, default={})
    return f"{NOUN[kind]} : {' , '.join(labels)} ."


def _request(record: Record, name: str) -> str:
    value = record[name]
    if not isinstance(value, str) or not value.strip():
        raise LeftOutError(record, "no question", f"{name} is {value!r}; expected text")
    return value.strip()


def _gold_answer(record: Record, metric: Metric) -> str:
    """The gold answer as one line: multiple answers joined by ``|||``, truth values as ``1`` and ``0``."""
    value = record["answer"]
    answers = [text for each in (value if isinstance(value, list) else [value]) if (text := _answer_text(each))]
    if not answers:
        raise LeftOutError(record, "no answer", f"answer is {value!r}; expected text or a number")
    if metric != "fact":
        return "|||".join(answers)
    truth = _TRUTHS.get(answers[0].casefold()) if len(answers) == 1 else None
    if truth is None:
        raise LeftOutError(record, "no truth value", f"answer is {value!r}; expected 0, 1, true or false")
    return truth


def _answer_text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return " ".join(str(value).split()) if isinstance(value, str | int | float) else ""
