"""Join the caches that several jobs made of one teacher."""

import json
from pathlib import Path
from typing import Any

from iapo.artifacts.files import directory_beside, exclusive_beside, write_json
from iapo.jobs.workflow_job import job

snakemake: Any

with job(snakemake) as run:
    from iapo.teacher.cache import cache_stats
    from iapo.teacher.parts import join_caches

    parts = [Path(path) for path in snakemake.input.parts]
    joined = directory_beside(Path(snakemake.output.stats))
    with exclusive_beside(joined):
        join_caches([directory_beside(part) for part in parts], joined)
    stats = cache_stats(joined)
    write_json(Path(snakemake.output.stats), stats)
    run.log.info(json.dumps(stats))
    run.write_record(
        Path(snakemake.output.record),
        inputs={f"part {i}": part for i, part in enumerate(parts)},
        seeds={},
        **stats,
    )
