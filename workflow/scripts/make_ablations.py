"""The ablation table, from the records of the varied runs."""

from pathlib import Path
from typing import Any

from iapo.jobs.workflow_job import job

snakemake: Any

with job(snakemake) as run:
    from benchmarks.tables.write import write_ablations

    record = Path(snakemake.output.record)
    run.log.info(write_ablations(record.parent.parent, run.config))
    run.write_record(
        record,
        inputs={str(path): Path(path) for path in snakemake.input},
        seeds={"bootstrap": run.config.statistics.seed},
    )
