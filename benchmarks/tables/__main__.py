"""Command that rebuilds every table and figure from the records: ``python -m benchmarks.tables results/mini``."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.records import RecordsError
from benchmarks.results import recorded_config
from benchmarks.tables.write import write_all
from iapo.artifacts.run_record import RecordError


def main(arguments: list[str]) -> str:
    """Write the tables and figures of a profile's results folder; return the main table in Markdown."""
    if len(arguments) != 1:
        raise RecordsError("expected one folder: python -m benchmarks.tables results/mini")
    folder = Path(arguments[0])
    return write_all(folder, recorded_config(folder))


if __name__ == "__main__":
    try:
        print(main(sys.argv[1:]))
    except (RecordsError, RecordError) as error:
        sys.exit(f"error: {error}")
