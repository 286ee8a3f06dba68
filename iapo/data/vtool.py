"""VTool-R1's parquet files of charts as examples.

Two generations are read, as the public code that writes and reads them shows their columns (the files themselves
were not looked at):

- ``VTOOL/Refocus_Chart`` on the hub: ``id, source, split, images, reward_model {ground_truth}, extra_info {question,
  tools_kwargs {metadata}}``, where ``metadata`` is JSON with ReFocus's fields of labels and boxes;
- ``<split>_full.parquet``, made by VTool-R1's first scripts: ``figure_id, query, answer, images, metadata``, where
  ``metadata`` is JSON or a struct with ``type, x_values_bbox, y_values_bbox``.

Assumed: the first of ``images`` is the unedited figure, as bytes or a struct with ``bytes``; boxes are in pixels
(VTool-R1's tools do not scale them), keyed by label or listed; a struct's empty fields are other rows' labels, and
the box ``{"x1": "none"}`` stands for no boxes; the split is the column ``split`` or the file's name begins with it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from iapo.data.ingest import KIND, NOUN, read_record
from iapo.data.records import IngestError, Record
from iapo.data.refocus import real_example
from iapo.data.refocus_layout import chart_fields
from iapo.types import Example, Split

_SPLIT: Mapping[str, Split] = {"train": "train", "val": "dev", "test": "test"}
_ROWS_AT_ONCE = 64
"""Rows hold pictures."""
_NO_BOXES = {"x1": "none"}


def read_vtool(paths: Iterable[Path], *, split: Split | None = None) -> list[Example]:
    """The examples of some files, in order, as :func:`iapo.data.refocus.read_refocus` gives them.

    Args:
        paths: parquet files of either generation.
        split: of all examples; None takes each row's own.

    Raises:
        IngestError: for a file that is not parquet, a missing column, an id that stands twice, or tables, whose
            files mix three test sets without saying which is which.
    """
    examples: dict[str, Example] = {}
    for path in paths:
        for number, row in enumerate(_rows(path)):
            example = _example(Record(path, str(row.get("id", row.get("figure_id", f"row {number}"))), row), split)
            if example.example_id in examples:
                raise IngestError(f"{path}: found {example.example_id!r} twice; expected files without common records")
            examples[example.example_id] = example
    return list(examples.values())


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        for batch in pq.ParquetFile(path).iter_batches(_ROWS_AT_ONCE):
            yield from batch.to_pylist()
    except (OSError, pa.ArrowInvalid) as error:
        raise IngestError(f"{path}: not a whole parquet file ({error}); download it again") from None


def _example(row: Record, split: Split | None) -> Example:
    extra = row.fields.get("extra_info") or {}
    metadata = _metadata(row, extra)
    source = str(metadata.get("source") or metadata.get("type") or row["source"]).removeprefix("chartqa_")
    if NOUN.get(KIND.get(source, "table")) != "chart":
        raise IngestError(
            f"{row.where}: found a figure of type {source!r}; expected h_bar or v_bar. Read tables from ReFocus_Data"
        )
    said = {"question": extra.get("question"), "answer": (row.fields.get("reward_model") or {}).get("ground_truth")}
    fields = {**row.fields, **metadata, **{name: text for name, text in said.items() if text is not None}}
    fields |= {name: _without_fillers(boxes) for name, boxes in fields.items() if name.endswith("_values_bbox")}
    record = Record(row.path, row.name, chart_fields(Record(row.path, row.name, fields)))
    reading = read_record(record, _picture(row), test_set=source, split=split or _own_split(row))
    return replace(real_example(reading), example_id=f"{source}/{row.name}")


def _metadata(row: Record, extra: Mapping[str, Any]) -> Mapping[str, Any]:
    """Labels and boxes, as VTool-R1's tools get them."""
    value = row.fields.get("metadata", (extra.get("tools_kwargs") or {}).get("metadata"))
    try:
        metadata = json.loads(value) if isinstance(value, str) else value
    except ValueError as error:
        raise IngestError(f"{row.where}: metadata is not JSON ({error})") from None
    if not isinstance(metadata, Mapping):
        raise IngestError(
            f"{row.where}: found no metadata among {sorted(row.fields)}; expected a column metadata, or "
            "extra_info.tools_kwargs.metadata"
        )
    return metadata


def _without_fillers(boxes: Any) -> Any:
    if not isinstance(boxes, Mapping):
        return boxes
    own = {label: box for label, box in boxes.items() if box is not None}
    return {} if own == _NO_BOXES else own


def _picture(row: Record) -> bytes:
    images = row["images"]
    first = images[0] if images else None
    content = first.get("bytes") if isinstance(first, Mapping) else first
    if not isinstance(content, bytes):
        raise IngestError(f"{row.where}: found {type(content).__name__} as its figure; expected the bytes of a picture")
    return content


def _own_split(row: Record) -> Split:
    name = str(row.fields.get("split") or row.path.stem.partition("_")[0])
    if name not in _SPLIT:
        raise IngestError(f"{row.where}: found split {name!r}; expected {', '.join(_SPLIT)}; or say which it is")
    return _SPLIT[name]
