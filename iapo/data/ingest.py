"""From a record in ReFocus's form to an example: the one path that every source goes through.

Sources differ in where records and figures lie and in the names of fields; they bring what they have into the form
that :func:`read_record` takes. Every box is converted to pixels there, once.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image, ImageFile

from iapo.data.boxes import Boxes, BoxReader, Oddity, Unit, find_panels
from iapo.data.hints import hint_text
from iapo.data.mini import RAW_FILES
from iapo.data.records import IngestError, LeftOutError, Record
from iapo.types import TEST_SETS, Example, Family, Figure, FigureKind, Metric, Split

KIND: Mapping[str, FigureKind] = {
    "charxiv": "subfigures",
    "h_bar": "h_bar",
    "v_bar": "v_bar",
    "vwtq": "table",
    "vwtq_syn": "table",
    "vtabfact": "table",
}
"""Test set → what its figures are."""
NOUN: Mapping[FigureKind, str] = {
    "h_bar": "chart",
    "v_bar": "chart",
    "table": "table",
    "subfigures": "figure",
}
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
"""Kind → family → the fields of its labels and of their boxes."""
_TRUTHS = {"1": "1", "true": "1", "0": "0", "false": "0"}


@dataclass(frozen=True)
class Reading:
    """An example and how its record was written."""

    example: Example
    signature: str
    """sha256 of the picture's size and pixels: equal for questions on one figure, however it was saved."""
    unit: Unit | None
    """Of its boxes; None where it has none, or its boxes were found in the picture."""
    oddities: Mapping[Oddity, list[str]]
    """What is odd about it → the labels concerned."""


def ingest(root: Path, split: Split) -> dict[str, list[Example]]:
    """All examples of a split of the mini world, by test set.

    Args:
        root: of the raw layout, as :func:`iapo.data.mini.write_raw` writes it.
        split: the folder to read.

    Raises:
        IngestError: for a missing file, field or figure, and for anything odd: the drawings are ours.
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
    """The example that a record holds.

    Args:
        record: with ReFocus's fields: ``query`` (``prompt`` for sub-figures), ``answer``, the labels and boxes of
            its kind of figure, and where it is annotated ``focus_areas``, labels or boxes. Boxes are keyed by label,
            listed in the labels' order or four columns, in fractions of the picture or in pixels, which their size
            tells.
        picture: the figure's file.
        test_set: decides the kind of figure and the metric.
        split: of the example.

    Returns:
        The example, which has the record's name and the mini world's context, and what is odd about the record.

    Raises:
        LeftOutError: for a picture that does not open or has no panels, a record without a question, and one without
            a usable answer.
        IngestError: for a missing field, or a box that is none.
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
    # lmms-eval sets this for its whole process; half a figure would pass for a whole one.
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


def _panels(record: Record, image: Image.Image) -> dict[str, tuple[int, int, int, int]]:
    panels = find_panels(image)
    if not panels:
        raise LeftOutError(record, "no panel", "its figure has no contour that could be a panel")
    return panels


def _context(kind: FigureKind, boxes: Boxes) -> str:
    """Block P: the kind of figure and the labels of its longest family."""
    labels = max(boxes.values(), key=len, default={})
    return f"{NOUN[kind]} : {' , '.join(labels)} ."


def _request(record: Record, name: str) -> str:
    value = record[name]
    if not isinstance(value, str) or not value.strip():
        raise LeftOutError(record, "no question", f"{name} is {value!r}; expected text")
    return value.strip()


def _gold_answer(record: Record, metric: Metric) -> str:
    """One line of text; several answers joined by ``|||``, truths as ``1`` and ``0``."""
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


def _answer_text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return " ".join(str(value).split()) if isinstance(value, str | int | float) else ""
