"""Draw, ingest and store every split."""

from pathlib import Path
from typing import Any

from iapo.data.store import build
from iapo.provenance import job

snakemake: Any

with job(snakemake) as run:
    manifest = build(run.config.data, Path(snakemake.output.manifest).parent)
    run.write_record(
        Path(snakemake.output.record),
        inputs={"manifest": Path(snakemake.output.manifest)},
        seeds={"data": run.config.data.seed},
        counts=manifest["counts"],
    )
