"""VTool-R1's parquet in both generations: the same examples as the data that it was made of."""

import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.rehearsal.refocus_records import Fixture, Record, draw_fixture
from iapo.data.ingest import IngestError
from iapo.data.refocus import INSTRUCTION
from iapo.data.vtool import read_vtool
from iapo.types import Example

NO_BOXES = {"x1": "none"}


@pytest.fixture(scope="module")
def drawn() -> Fixture:
    return draw_fixture(random.Random(1), 2, 3)


def picture(drawn: Fixture, record: Record) -> bytes:
    name = Path(record["conversations"][0]["images"][0]).name
    return drawn.pictures[f"ChartQA/ChartQA Dataset/train/png/{name}"]


def listed(boxes: Any) -> dict[str, list[float]]:
    return {name: [box[name] for box in boxes] for name in ("x1", "y1", "x2", "y2")}


def hub_row(drawn: Fixture, record: Record, index: int) -> Record:
    """As ``VTOOL/Refocus_Chart`` has it."""
    axes = {"x": record["x_values_bbox"], "y": record["y_values_bbox"]}
    source = f"chartqa_{record['source']}"
    labels = {f"{axis}_values": list(boxes) for axis, boxes in axes.items()}
    metadata = {"source": source, **labels, "figure_bbox": record["figure_bbox"]}
    metadata |= {f"{axis}_values_bbox": boxes for axis, boxes in axes.items()}
    return {
        "id": record["id"],
        "source": source,
        "split": "train",
        "data_source": "ReFocus/ReFocus_Data",
        "images": [{"bytes": picture(drawn, record), "path": None}],
        "prompt": [{"role": "user", "content": f"# USER REQUEST #: <image> {record['query']}"}],
        "reward_model": {"ground_truth": record["answer"], "style": "rule"},
        "extra_info": {
            "answer": record["answer"],
            "index": index,
            "question": record["query"],
            "tools_kwargs": {"name": "refocus", "metadata": json.dumps(metadata)},
        },
        "focus_areas_bbox": listed(record["focus_areas"]),
        **labels,
        **{f"{axis}_values_bbox": listed(boxes.values()) for axis, boxes in axes.items()},
    }


def first_row(drawn: Fixture, record: Record) -> Record:
    """As VTool-R1's first scripts write it."""
    return {
        "metadata": {
            "type": record["source"],
            "figure_bbox": record["figure_bbox"],
            "x_values_bbox": record["x_values_bbox"] or NO_BOXES,
            "y_values_bbox": record["y_values_bbox"] or NO_BOXES,
        },
        "figure_id": record["id"],
        "query": record["query"],
        "prompt": f"<image> # USER REQUEST #: {record['query']}",
        "answer": record["answer"],
        "images": [picture(drawn, record)],
    }


def write(path: Path, rows: list[Record]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def as_json(row: Record) -> Record:
    return {**row, "metadata": json.dumps(row["metadata"])}


def expected(drawn: Fixture, example: Example, record: Record) -> None:
    """What the training record says, the example says."""
    boxes = record["x_values_bbox"] or record["y_values_bbox"]
    (family,) = example.figure.boxes.values()
    assert family == {label: (box["x1"], box["y1"], box["x2"], box["y2"]) for label, box in boxes.items()}
    assert example.example_id == f"{record['source']}/{record['id']}"
    assert (example.test_set, example.metric, example.split) == (record["source"], "relaxed", "train")
    assert (example.request, example.answer) == (record["query"], record["answer"])
    assert example.image_png == picture(drawn, record) and example.context.endswith(INSTRUCTION)


def test_the_hub_s_files_are_read_with_their_focus(drawn: Fixture, tmp_path: Path) -> None:
    rows = [hub_row(drawn, record, i) for i, record in enumerate(drawn.training)]
    examples = read_vtool([write(tmp_path / "train.parquet", rows)])
    assert len(examples) == len(drawn.training)
    for example, record in zip(examples, drawn.training, strict=True):
        expected(drawn, example, record)
        (family,) = example.figure.boxes.values()
        focus = [tuple(box.values()) for box in record["focus_areas"]]
        assert [family[label] for label in example.focus_labels] == focus


@pytest.mark.parametrize("form", ["json", "struct"])
def test_the_first_files_are_read(drawn: Fixture, tmp_path: Path, form: str) -> None:
    rows = [first_row(drawn, record) for record in drawn.training]
    rows = [as_json(row) for row in rows] if form == "json" else rows
    examples = read_vtool([write(tmp_path / "train_full.parquet", rows)])
    for example, record in zip(examples, drawn.training, strict=True):
        expected(drawn, example, record)
        assert example.focus_labels == ()


def test_a_split_is_the_row_s_the_file_s_or_the_one_asked_for(drawn: Fixture, tmp_path: Path) -> None:
    row = as_json(first_row(drawn, drawn.training[0]))
    for name, split in (("val_full", "dev"), ("test_full", "test")):
        assert [e.split for e in read_vtool([write(tmp_path / f"{name}.parquet", [row])])] == [split]
    other = write(tmp_path / "mine.parquet", [row])
    assert [e.split for e in read_vtool([other], split="test")] == ["test"]
    with pytest.raises(IngestError, match="found split 'mine'"):
        read_vtool([other])


def test_what_cannot_be_read_is_named(drawn: Fixture, tmp_path: Path) -> None:
    row = as_json(first_row(drawn, drawn.training[0]))
    wrong: list[tuple[Record, str]] = [
        ({"metadata": '{"type": "table"}'}, "'table'; expected h_bar or v_bar"),
        ({"metadata": "{"}, "not JSON"),
        ({"metadata": '{"type": "h_bar"}'}, "field 'x_values_bbox' not found"),
        ({"metadata": None}, "found no metadata"),
        ({"images": []}, "found NoneType as its figure"),
        ({"images": [b"no picture"]}, "does not open"),
        ({"answer": None}, "expected text or a number"),
        ({"query": None}, "expected text"),
    ]
    for i, (change, says) in enumerate(wrong):
        with pytest.raises(IngestError, match=says):
            read_vtool([write(tmp_path / f"train_{i}.parquet", [{**row, **change}])])
    path = write(tmp_path / "train.parquet", [row])
    with pytest.raises(IngestError, match="twice"):
        read_vtool([path, path])
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(IngestError, match="not a whole parquet file"):
        read_vtool([path])
