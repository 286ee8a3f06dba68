"""Per-item evaluation records: one row for one policy's answer to one question, stored as parquet.

Every table and figure is computed from these records and the training metrics alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from iapo.artifacts.files import atomic_write

SCHEMA = pa.schema(
    [
        ("method", pa.string()),
        ("seed", pa.int64()),
        ("test_set", pa.string()),
        ("example_id", pa.string()),
        ("figure_id", pa.string()),
        # Items of one cluster are not independent: they ask for the same labels, or else for one figure.
        ("cluster", pa.string()),
        # JSON list of the assistant's turns and the tools' replies.
        ("turns", pa.string()),
        # Canonical JSON of the first valid call; null without one.
        ("call", pa.string()),
        # Extracted answer; null where none was found.
        ("answer", pa.string()),
        ("gold", pa.string()),
        ("score", pa.float64()),
        # By the test set's own published rule; null where that rule asks a judge model.
        ("score_official", pa.float64()),
        # Answer and score when the tool returns the original image, and without tools; null where not evaluated.
        ("answer_original", pa.string()),
        ("score_original", pa.float64()),
        ("answer_off", pa.string()),
        ("score_off", pa.float64()),
        # Whether a call was attempted, well formed or not; whether every call of the turn was executed.
        ("called", pa.bool_()),
        ("call_ok", pa.bool_()),
        # Whether the first call names exactly the annotated labels.
        ("call_right", pa.bool_()),
        # Whether a turn reached the token limit.
        ("truncated", pa.bool_()),
    ]
)


class ItemRecord(TypedDict):
    """One row of :data:`SCHEMA`."""

    method: str
    seed: int
    test_set: str
    example_id: str
    figure_id: str
    cluster: str
    turns: str
    call: str | None
    answer: str | None
    gold: str
    score: float
    score_official: float | None
    answer_original: str | None
    score_original: float | None
    answer_off: str | None
    score_off: float | None
    called: bool
    call_ok: bool
    call_right: bool
    truncated: bool


class RecordsError(ValueError):
    """Raised for missing or incomplete records; the message names the file, method and items."""


def write_records(path: Path, records: Sequence[ItemRecord]) -> None:
    """Write one policy's records atomically."""
    table = pa.Table.from_pylist(list(records), schema=SCHEMA)
    with atomic_write(path) as tmp:
        pq.write_table(table, tmp, compression="zstd")


def read_run(path: Path) -> pd.DataFrame:
    """Return the records of one file; only the presence of columns and rows is checked.

    Raises:
        RecordsError: for a missing file or column, or a file without records.
    """
    if not path.exists():
        raise RecordsError(f"{path} not found; evaluate this policy first (rule evaluate_policy)")
    table = pq.read_table(path)
    missing = [name for name in SCHEMA.names if name not in table.column_names]
    if missing or not len(table):
        found = f"no column {', '.join(missing)}" if missing else "no records"
        raise RecordsError(f"{path}: found {found}; evaluate this policy again")
    return table.select(SCHEMA.names).to_pandas()
