"""Per-item evaluation records: what one policy did with one question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from iapo.provenance import atomic_write

SCHEMA = pa.schema(
    [
        ("method", pa.string()),
        ("seed", pa.int64()),
        ("test_set", pa.string()),
        ("example_id", pa.string()),
        ("figure_id", pa.string()),
        # JSON list: the assistant's turns and the tools' answers.
        ("turns", pa.string()),
        # Canonical JSON of the first valid call; null where there was none.
        ("call", pa.string()),
        # Extracted answer; null where none was given.
        ("answer", pa.string()),
        ("gold", pa.string()),
        ("score", pa.float64()),
        # The same where the tool hands back the original image, and without tools; null where not asked.
        ("answer_original", pa.string()),
        ("score_original", pa.float64()),
        ("answer_off", pa.string()),
        ("score_off", pa.float64()),
        # A call was attempted, well formed or not; every call of the turn was carried out.
        ("called", pa.bool_()),
        ("call_ok", pa.bool_()),
        ("truncated", pa.bool_()),
    ]
)


class RecordsError(ValueError):
    """Records cannot be compared; the message names the file, method and items."""


def write_records(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write one policy's records, whole or not at all."""
    table = pa.Table.from_pylist(list(records), schema=SCHEMA)
    with atomic_write(path) as partial:
        pq.write_table(table, partial, compression="zstd")


def read_run(path: Path) -> pd.DataFrame:
    """One file's records, unchecked but for their columns.

    Raises:
        RecordsError: for a missing file or column, or no records.
    """
    if not path.exists():
        raise RecordsError(f"{path} not found; evaluate this policy first (rule evaluate_policy)")
    table = pq.read_table(path)
    missing = [name for name in SCHEMA.names if name not in table.column_names]
    if missing or not len(table):
        found = f"no column {', '.join(missing)}" if missing else "no records"
        raise RecordsError(f"{path}: found {found}; evaluate this policy again")
    return table.select(SCHEMA.names).to_pandas()
