"""Results that arrive without Snakemake's own metadata, as after a copy, are checked by their run records.

Snakemake keeps what it planned a job by in ``.snakemake/metadata``. Where that is missing it would trust file times
alone, and take a result of other code or other settings for today's. Each run record holds the same params, so
they are given back before anything is planned.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from snakemake.persistence import RECORD_FORMAT_VERSION, MetadataRecord
from snakemake.persistence.file import FilePersistence

from iapo.artifacts.run_record import read_record, records_below


def age_other_table(results: Path, shown: Path = Path("results/table.csv")) -> None:
    """Give the shown table of another profile's run an old time, so that this profile's is shown again.

    All profiles show theirs in one place, where a later time alone would let another one's pass for this one's.

    Args:
        results: folder of this profile's results.
        shown: the table that runs show.
    """
    own = results / "tables/main.csv"
    if shown.exists() and own.exists() and own.read_bytes() != shown.read_bytes():
        os.utime(shown, (0, 0))


def restore_metadata(results: Path, snakemake: Path = Path(".snakemake")) -> int:
    """Give Snakemake back the params of results that it knows nothing about.

    Args:
        results: folder of a profile's results.
        snakemake: Snakemake's own folder.

    Returns:
        How many files' params were given back.

    Raises:
        RecordError: for the first run record that is not as it was written.
    """
    store = FilePersistence(nolock=True, path=snakemake)
    restored = 0
    for path in records_below(results):
        plan: Any = read_record(path).get("plan")
        for output in plan["outputs"] if plan else []:
            if Path(output).exists() and store._read_record(output) is None:
                record = MetadataRecord(
                    rule=plan["rule"], params=plan["params"], record_format_version=RECORD_FORMAT_VERSION
                )
                store._write_record(output, record)
                restored += 1
    return restored
