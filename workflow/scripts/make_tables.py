"""Every table and figure of the run, from the records of its policies."""

from pathlib import Path
from typing import Any

from iapo.jobs.workflow_job import job

snakemake: Any

with job(snakemake) as run:
    from benchmarks.tables.write import write_all

    record = Path(snakemake.output.record)
    write_all(record.parent.parent, run.config)
    run.write_record(
        record,
        inputs={str(path): Path(path) for path in snakemake.input},
        seeds={"bootstrap": run.config.statistics.seed},
    )
