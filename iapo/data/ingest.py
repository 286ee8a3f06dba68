"""Ingestion: conversion of one raw record in ReFocus's format into an example, shared by every source.

Sources differ in file layout and field names; each maps its records to the format that :func:`read_record` takes,
where boxes are converted to pixels once.

A record whose question, labels or answer hold a special token is left out rather than escaped: escaped, the text that
a model reads and the label that it must name would differ from what the figure shows.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image, ImageFile

from iapo.data.boxes import Boxes, BoxReader, Oddity, Unit, find_panels
from iapo.data.contexts import short_context
from iapo.data.decoding import as_seen, is_turned
from iapo.data.gold_answers import gold_answer
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

_MAX_SIDE_RATIO = 200
"""Largest ratio of a figure's longer side to its shorter one that the processor of Qwen2-VL and Qwen2.5-VL takes."""

_DAMAGE = (
    *(ArithmeticError, EOFError, LookupError, OSError, SyntaxError, TypeError, ValueError),
    *(struct.error, Image.DecompressionBombError),
)
"""What Pillow raises for damaged files."""

_SPECIAL_TOKEN = re.compile(r"<\|[\w-]+\|>|</?(?:tool_call|tool_response|think)>")
"""Text that tokenizers of chat models read as one control token."""

_SURROGATE = re.compile("[\ud800-\udfff]")
"""Half of a UTF-16 pair, which JSON can spell and UTF-8 cannot."""


@dataclass(frozen=True)
class Reading:
    """An example, with what was found about its record."""

    example: Example
    signature: str
    """sha256 of the size and pixels of the image as seen: equal for all questions about one figure, in any format."""
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
        LeftOutError: if the image cannot be decoded, is too narrow for the model's processor or has no panels; if EXIF
            turns it and the record has boxes, as nothing says whether they are those of the stored or of the turned
            image; if the record has no question or no usable answer; or if its question, labels or answer hold a
            special token, or these or its id half of a surrogate pair.
        IngestError: for a missing field or a malformed box.
    """
    kind = KIND[test_set]
    image, turned = _opened(record, picture)
    reader = BoxReader(record, image.size)
    boxes: Boxes = {"subfigures": _panels(record, image)} if kind == "subfigures" else reader.read(_FIELDS[kind])
    if not boxes:
        reader.note("no boxes")
    elif turned and kind != "subfigures":
        raise LeftOutError(
            record, "boxes of a turned figure", "EXIF turns its figure; expected boxes of an upright one"
        )
    metric = _METRIC.get(test_set, "exact")
    labels = [label for named in boxes.values() for label in named]
    example = Example(
        example_id=record.name,
        test_set=test_set,
        split=split,
        figure=Figure(record.name, kind, boxes),
        image_png=picture,
        context=short_context(kind, boxes),
        request=_request(record, "prompt" if kind == "subfigures" else "query"),
        answer=gold_answer(record, test_set, metric, labels),
        metric=metric,
        focus_labels=reader.focus_labels(boxes),
    )
    _check_texts(record, example.request, example.answer, *labels)
    unit = reader.unit if boxes and kind != "subfigures" else None
    return Reading(example, _signature(image), unit, reader.oddities)


def _opened(record: Record, picture: bytes) -> tuple[Image.Image, bool]:
    """Decode a figure; return the image as seen, and whether that turned it."""
    # lmms-eval allows truncated images in its whole process, which would let half a figure pass for a whole one.
    lenient, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
    try:
        stored = Image.open(io.BytesIO(picture))
        image = as_seen(stored)
    except _DAMAGE as error:
        raise LeftOutError(record, "unreadable figure", f"its figure does not open ({error})") from None
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = lenient
    if max(image.size) > _MAX_SIDE_RATIO * min(image.size):
        found = f"its figure has {image.width}×{image.height} px; expected sides of a ratio up to {_MAX_SIDE_RATIO}"
        raise LeftOutError(record, "figure too narrow", found)
    return image, is_turned(stored)


def _signature(image: Image.Image) -> str:
    digest = hashlib.sha256(repr(image.size).encode())
    digest.update(image.tobytes())
    return digest.hexdigest()


def _check_texts(record: Record, *texts: str) -> None:
    for text in (record.name, *texts):
        if _SURROGATE.search(text):
            raise LeftOutError(record, "lone surrogate", f"found {text!r}; expected text that UTF-8 can encode")
    for text in texts:
        if token := _SPECIAL_TOKEN.search(text):
            raise LeftOutError(record, "special token", f"found {token.group()} in {text!r}; expected plain text")


def _panels(record: Record, image: Image.Image) -> dict[str, Box]:
    panels = find_panels(image)
    if not panels:
        raise LeftOutError(record, "no panel", "its figure has no contour that could be a panel")
    return panels


def _request(record: Record, name: str) -> str:
    value = record[name]
    if not isinstance(value, str) or not value.strip():
        raise LeftOutError(record, "no question", f"{name} is {value!r}; expected text")
    return value.strip()
