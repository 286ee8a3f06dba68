"""Download one repository at its pinned commit, or take it from a folder, and verify every file."""

from pathlib import Path
from typing import Any

from iapo.jobs.workflow_job import job

snakemake: Any

with job(snakemake) as run:
    from iapo.config.sources import RepositoryConfig
    from iapo.hub.download import fetch

    params, marker = snakemake.params, Path(snakemake.output.marker)
    source = RepositoryConfig(**params.source)
    fetched = fetch(source, run.config.hub, files=params.files, kind=params.kind, into=marker.parent)
    run.write_record(Path(snakemake.output.record), inputs={"fetched": marker}, seeds={}, more_outputs=fetched["files"])
