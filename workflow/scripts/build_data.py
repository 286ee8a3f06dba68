"""Draw or read, ingest and store every split."""

from pathlib import Path
from typing import Any

from iapo.data.build import build
from iapo.jobs.workflow_job import job

snakemake: Any

with job(snakemake) as run:
    fetched = Path(snakemake.input[0]) if snakemake.input else None
    manifest = build(run.config.data, Path(snakemake.output.manifest).parent, raw=fetched.parent if fetched else None)
    run.write_record(
        Path(snakemake.output.record),
        inputs={"manifest": Path(snakemake.output.manifest)} | ({"fetched": fetched} if fetched else {}),
        seeds={"data": run.config.data.seed},
        counts=manifest["counts"],
    )
