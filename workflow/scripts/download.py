"""Download one repository at its pinned commit, or take it from a folder, and verify every file."""

from pathlib import Path
from typing import Any

from iapo.provenance import job

snakemake: Any

with job(snakemake) as run:
    from iapo.hub import fetch

    source, kind, files = snakemake.params.source, snakemake.params.kind, snakemake.params.files
    marker = Path(snakemake.output.marker)
    fetched = fetch(run.config.sources[source], run.config.hub, files=files, kind=kind, into=marker.parent)
    run.write_record(Path(snakemake.output.record), inputs={"fetched": marker}, seeds={}, files=fetched["files"])
