"""The page on which every question and the policies' answers to it can be looked at."""

from pathlib import Path
from typing import Any

from iapo.jobs.workflow_job import job

snakemake: Any

with job(snakemake) as run:
    from benchmarks.viewer.write import write_viewer

    out = Path(snakemake.output.page)
    write_viewer(out.parent, run.config, out)
    run.write_record(
        Path(snakemake.output.record), inputs={str(path): Path(path) for path in snakemake.input}, seeds={}
    )
