"""Write another cache with the teacher's attribution of the calls that trained students made and this one lacked."""

from pathlib import Path
from typing import Any

from iapo.artifacts.files import exclusive_beside, write_json
from iapo.jobs.workflow_job import job

snakemake: Any

with job(snakemake) as run:
    from iapo.artifacts.files import directory_beside
    from iapo.data.selection import training_prompts
    from iapo.data.store import read_split
    from iapo.models.loading import load_to_run
    from iapo.rollout.call_sampling import read_misses
    from iapo.teacher.build_cache import fill_copy
    from iapo.teacher.cache import cache_stats

    config = run.config
    manifest, weights = Path(snakemake.input.manifest), Path(snakemake.input.teacher)
    queue = read_misses(Path(path).parent.parent / "work" for path in snakemake.input.weights)
    teacher = load_to_run(weights.parent, config)
    examples = training_prompts(read_split(manifest.parent, "train", config.train.sets), config.train.prompts_per_set)
    cache, filled = directory_beside(Path(snakemake.input.stats)), directory_beside(Path(snakemake.output.stats))
    with exclusive_beside(filled):
        added = fill_copy(cache, filled, teacher, examples, queue, config)
    stats = cache_stats(filled)
    write_json(Path(snakemake.output.stats), stats)
    run.write_record(
        Path(snakemake.output.record),
        inputs={"data": manifest, "teacher": weights},
        seeds={},
        added=added,
        **stats,
    )
