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
        # A call was attempted, well formed or not; every call of the turn was carried out.
        ("called", pa.bool_()),
        ("call_ok", pa.bool_()),
        ("truncated", pa.bool_()),
    ]
)
_KEY = ["method", "seed", "test_set", "example_id"]
_NAMED = 3
"""How many missing items an error names."""


class RecordsError(ValueError):
    """Records cannot be compared; the message names the file, method and items."""


def write_records(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write one policy's records, whole or not at all."""
    table = pa.Table.from_pylist(list(records), schema=SCHEMA)
    with atomic_write(path) as partial:
        pq.write_table(table, partial, compression="zstd")


def read_records(paths: Sequence[Path]) -> pd.DataFrame:
    """All records of some files, after checking that the policies answered the same questions.

    Raises:
        RecordsError: for a missing file or column, an item twice, or runs with different items.
    """
    records = pd.concat([_read(path) for path in paths], ignore_index=True)
    twice = records[records.duplicated(_KEY)]
    if len(twice):
        first = twice.iloc[0]
        raise RecordsError(
            f"{len(twice)} records are there twice, the first {first.example_id!r} of "
            f"{first.method} seed {first.seed}; evaluate every run once"
        )
    _check_same_items(records)
    return records


def _read(path: Path) -> pd.DataFrame:
    if not path.exists():
        raise RecordsError(f"{path} not found; evaluate this policy first (rule evaluate_policy)")
    table = pq.read_table(path)
    missing = [name for name in SCHEMA.names if name not in table.column_names]
    if missing or not len(table):
        found = f"no column {', '.join(missing)}" if missing else "no records"
        raise RecordsError(f"{path}: found {found}; evaluate this policy again")
    return table.select(SCHEMA.names).to_pandas()


def _check_same_items(records: pd.DataFrame) -> None:
    for test_set, rows in records.groupby("test_set"):
        everything = set(rows["example_id"])
        for (method, seed), run in rows.groupby(["method", "seed"]):
            missing = sorted(everything - set(run["example_id"]))
            if missing:
                raise RecordsError(
                    f"{method} seed {seed} lacks {len(missing)} of {len(everything)} items of {test_set}, "
                    f"the first {', '.join(missing[:_NAMED])}; evaluate it again on the same data"
                )
    runs = set(map(tuple, records[["method", "seed"]].drop_duplicates().to_numpy()))
    for test_set, rows in records.groupby("test_set"):
        here = set(map(tuple, rows[["method", "seed"]].drop_duplicates().to_numpy()))
        for method, seed in sorted(runs - here):
            raise RecordsError(f"{method} seed {seed} has no records of {test_set}; evaluate it again")
