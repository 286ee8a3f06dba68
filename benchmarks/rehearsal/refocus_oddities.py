"""Irregularities of ReFocus_Data, each a function that plants one in the fixture so that tests cover it."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath

from PIL import ExifTags, Image

from benchmarks.rehearsal.refocus_records import Fixture, Record

_CORNERS = ("x1", "y1", "x2", "y2")


def _picture(fixture: Fixture, path: str) -> str:
    """Path of the image that a record names, in the fixture."""
    tail = "/".join(PurePosixPath(path).parts[-3:])
    return next(key for key in fixture.pictures if key.endswith(tail))


def _size(fixture: Fixture, path: str) -> tuple[int, int]:
    return Image.open(io.BytesIO(fixture.pictures[_picture(fixture, path)])).size


def _training_path(record: Record) -> str:
    return str(record["conversations"][0]["images"][0])


def _scaled(box: Mapping[str, float], width: float, height: float) -> dict[str, float]:
    scales = (width, height, width, height)
    return {name: box[name] * scale for name, scale in zip(_CORNERS, scales, strict=True)}


def _of_first_figure(fixture: Fixture, test_set: str) -> list[Record]:
    """All records about the figure of the first record."""
    records = [record for _, record in fixture.tests[test_set]]
    return [record for record in records if record["figure_path"] == records[0]["figure_path"]]


def _other_unit(fixture: Fixture) -> None:
    """Give the boxes of a test record in pixels and those of a training record in fractions."""
    _, record = fixture.tests["h_bar"][0]
    record["y_bboxes"] = [_scaled(box, *_size(fixture, record["figure_path"])) for box in record["y_bboxes"]]
    trained = fixture.training[0]
    width, height = _size(fixture, _training_path(trained))
    boxes = trained["y_values_bbox"]
    trained["y_values_bbox"] = {label: _scaled(box, 1 / width, 1 / height) for label, box in boxes.items()}
    trained["focus_areas"] = [_scaled(box, 1 / width, 1 / height) for box in trained["focus_areas"]]


def _missing_figure(fixture: Fixture) -> None:
    _, record = fixture.tests["v_bar"][0]
    del fixture.pictures[_picture(fixture, record["figure_path"])]


def _unreadable_figure(fixture: Fixture) -> None:
    _, record = fixture.tests["vtabfact"][0]
    path = _picture(fixture, record["figure_path"])
    fixture.pictures[path] = fixture.pictures[path][:1000]


def _shared_ids(fixture: Fixture) -> None:
    """Reuse the id of a VWTQ question in VWTQ_syn."""
    shared, _ = fixture.tests["vwtq"][0]
    _, record = fixture.tests["vwtq_syn"][0]
    record["figure_id"] = shared
    fixture.tests["vwtq_syn"][0] = (shared, record)


def _repeated_keys(fixture: Fixture) -> None:
    """Repeat one key with a different record, and another with the same record."""
    pairs = fixture.tests["vwtq"]
    (name, _), (again, same) = pairs[0], pairs[1]
    pairs += [(name, {**pairs[2][1], "figure_id": name}), (again, copy.deepcopy(same))]


def _extra_field(fixture: Fixture) -> None:
    fixture.tests["h_bar"][1][1]["caption"] = "who knows"


def _truth_forms(fixture: Fixture) -> None:
    forms: list[tuple[object, object]] = [(0, 1), ("false", "true"), (False, True), ("False", "True")]
    for i, (_, record) in enumerate(fixture.tests["vtabfact"]):
        record["answer"] = forms[i % len(forms)][int(record["answer"])]


def _number_answers(fixture: Fixture) -> None:
    for test_set, form in (("h_bar", int), ("v_bar", float), ("charxiv", int), ("vwtq", float)):
        _, record = fixture.tests[test_set][0]
        record["answer"] = form(record["answer"])


def _unusable_answers(fixture: Fixture) -> None:
    fixture.tests["vtabfact"][0][1]["answer"] = "maybe"
    fixture.tests["vwtq"][0][1]["answer"] = " "


def _lists_of_sources(fixture: Fixture) -> None:
    """Give answers that are lists, each in the notation of its set's source."""
    fixture.tests["h_bar"][0][1]["answer"] = "[Kenya , 22]"
    fixture.tests["vwtq"][0][1]["answer"] = "Kenya|22"
    fixture.tests["charxiv"][0][1]["answer"] = "[0, 1]"


def _missing_answers(fixture: Fixture) -> None:
    fixture.tests["h_bar"][1][1]["answer"] = float("nan")
    fixture.tests["vwtq_syn"][1][1]["answer"] = "NaN"


def _odd_texts(fixture: Fixture) -> None:
    """Put a special token into a question, one into a row's label, and half of a surrogate pair into a question."""
    fixture.tests["v_bar"][1][1]["query"] = "What is <|image_pad|>?"
    fixture.tests["vwtq_syn"][0][1]["query"] = "What is \ud83d?"
    table = fixture.tests["vtabfact"][-1][1]
    table["row_starters"] = [*table["row_starters"][:-1], "<|im_end|>"]


def _odd_figures(fixture: Fixture) -> None:
    """Make the last horizontal bars too narrow for the model's processor, and let EXIF turn the last vertical ones."""
    narrow, turned = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (2000, 8)).save(narrow, "PNG")
    fixture.pictures[_picture(fixture, fixture.tests["h_bar"][-1][1]["figure_path"])] = narrow.getvalue()
    path = _picture(fixture, fixture.tests["v_bar"][-1][1]["figure_path"])
    orientation = Image.Exif()
    orientation[ExifTags.Base.Orientation] = 6
    Image.open(io.BytesIO(fixture.pictures[path])).save(turned, "PNG", exif=orientation)
    fixture.pictures[path] = turned.getvalue()


def _boxes_not_finite(fixture: Fixture) -> None:
    """Let one box reach infinity, and another so far out that its unit looks like pixels."""
    for record in _of_first_figure(fixture, "vwtq"):
        record["columns_bbox"][-1]["x2"] = float("inf")
        record["rows_bbox"][-1]["x2"] = 1e300


def _repeated_labels(fixture: Fixture) -> None:
    """Give two rows the same first cell, one row an empty first cell, and two bars the same label."""
    for record in _of_first_figure(fixture, "vwtq"):
        rows = record["row_starters"]
        record["row_starters"] = [*rows[:3], rows[2], "", *rows[5:]]
    for record in _of_first_figure(fixture, "h_bar"):
        record["y_values"] = [record["y_values"][0], *record["y_values"][:1], *record["y_values"][2:]]


def _label_without_box(fixture: Fixture) -> None:
    for record in _of_first_figure(fixture, "vwtq_syn"):
        record["rows_bbox"] = record["rows_bbox"][:-1]
    for record in _of_first_figure(fixture, "v_bar"):
        record["x_values"] = record["x_values"][:-1]


def _boxes_outside(fixture: Fixture) -> None:
    """Let one box extend slightly beyond the image, and put one wholly outside it."""
    for record in _of_first_figure(fixture, "vwtq"):
        record["columns_bbox"][-1]["x2"] = 1.02
        record["rows_bbox"][-1] |= {"y1": 1.01, "y2": 1.04}
    boxes = fixture.training[0]["y_values_bbox"]
    next(iter(boxes.values()))["x2"] = 900


def _no_boxes(fixture: Fixture) -> None:
    """Remove a table's boxes, as ReFocus does where its detector miscounts rows or columns."""
    for record in _of_first_figure(fixture, "vtabfact"):
        record |= {"column_headers": [], "row_starters": [], "columns_bbox": [], "rows_bbox": []}


def _keyed_boxes(fixture: Fixture) -> None:
    for _, record in fixture.tests["v_bar"]:
        record["x_bboxes"] = dict(zip(record["x_values"], record["x_bboxes"], strict=True))
        record["y_bboxes"] = {}


def _no_panels(fixture: Fixture) -> None:
    _, record = fixture.tests["charxiv"][0]
    blank = io.BytesIO()
    Image.new("RGB", (900, 700), "white").save(blank, "JPEG")
    fixture.pictures[_picture(fixture, record["figure_path"])] = blank.getvalue()


def _tested_in_training(fixture: Fixture) -> None:
    """Use the pixels of a test figure in training, under another name and encoded differently."""
    tested = fixture.pictures[_picture(fixture, fixture.tests["h_bar"][0][1]["figure_path"])]
    anew = io.BytesIO()
    Image.open(io.BytesIO(tested)).save(anew, "PNG", compress_level=1)
    fixture.pictures[_picture(fixture, _training_path(fixture.training[0]))] = anew.getvalue()


def _later_records(fixture: Fixture) -> None:
    """Convert the training records to the format of later releases and of the repository's parquet files."""
    for record in fixture.training:
        record["image"] = _training_path(record).replace("data/ChartQA", "ChartQA/ChartQA Dataset")
        record["thoughts"] = [turn["response"] for turn in record.pop("conversations")]
        record["question"] = record.pop("query")
        record["source"] = f"chartqa_{record['source']}"
        for axis in ("x", "y"):
            boxes = record[f"{axis}_values_bbox"]
            record[f"{axis}_values"] = list(boxes)
            record[f"{axis}_values_bbox"] = list(boxes.values())
        areas = record.pop("focus_areas")
        record["focus_areas_bbox"] = {name: [area[name] for area in areas] for name in _CORNERS}


ODDITIES: Mapping[str, Callable[[Fixture], None]] = {
    "other_unit": _other_unit,
    "missing_figure": _missing_figure,
    "unreadable_figure": _unreadable_figure,
    "shared_ids": _shared_ids,
    "repeated_keys": _repeated_keys,
    "extra_field": _extra_field,
    "truth_forms": _truth_forms,
    "number_answers": _number_answers,
    "unusable_answers": _unusable_answers,
    "lists_of_sources": _lists_of_sources,
    "missing_answers": _missing_answers,
    "odd_texts": _odd_texts,
    "odd_figures": _odd_figures,
    "repeated_labels": _repeated_labels,
    "label_without_box": _label_without_box,
    "boxes_outside": _boxes_outside,
    "boxes_not_finite": _boxes_not_finite,
    "no_boxes": _no_boxes,
    "keyed_boxes": _keyed_boxes,
    "no_panels": _no_panels,
    "tested_in_training": _tested_in_training,
    "later_records": _later_records,
}
"""Name of an irregularity → function that plants it in a fixture."""
