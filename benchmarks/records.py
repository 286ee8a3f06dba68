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
        ("cluster", pa.string()),
        ("turns", pa.string()),
        ("call", pa.string()),
        ("answer", pa.string()),
        ("gold", pa.string()),
        ("score", pa.float64()),
        ("score_official", pa.float64()),
        ("answer_original", pa.string()),
        ("score_original", pa.float64()),
        ("answer_off", pa.string()),
        ("score_off", pa.float64()),
        ("called", pa.bool_()),
        ("call_ok", pa.bool_()),
        ("call_right", pa.bool_()),
        ("truncated", pa.bool_()),
    ]
)
"""What the fields mean: :class:`ItemRecord`."""


class ItemRecord(TypedDict):
    """One row of :data:`SCHEMA`."""

    method: str
    """Name of the policy: a method, a variant, or a row that no method trains."""
    seed: int
    """Seed of its training; of a policy that no method trains, the number of its cold start."""
    test_set: str
    """Set that the question is from."""
    example_id: str
    """The question."""
    figure_id: str
    """The figure that it is about."""
    cluster: str
    """Items of one cluster are not independent: they ask for the same labels, or else for one figure."""
    turns: str
    """JSON list of the assistant's turns and the tools' replies."""
    call: str | None
    """Canonical JSON of the first valid call; null without one."""
    answer: str | None
    """Extracted answer; null where none was found."""
    gold: str
    """Gold answer."""
    score: float
    """By our rule, in [0, 1]; 1 where the answer is right."""
    score_official: float | None
    """By the test set's own published rule; null where that rule asks a judge model."""
    answer_original: str | None
    """Answer when the tool returns the original image; null where not evaluated."""
    score_original: float | None
    """Its score."""
    answer_off: str | None
    """Answer without tools; null where not evaluated."""
    score_off: float | None
    """Its score."""
    called: bool
    """Whether a call was attempted, well formed or not."""
    call_ok: bool
    """Whether every call of the turn was executed."""
    call_right: bool
    """Whether the first call names exactly the annotated labels and can be carried out."""
    truncated: bool
    """Whether a turn reached the token limit."""


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
