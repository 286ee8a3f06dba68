"""Add the teacher's attribution of the calls that trained students made and the cache lacked."""

from pathlib import Path
from typing import Any

from iapo.provenance import exclusive, job, write_json

snakemake: Any

with job(snakemake) as run:
    from iapo.cache_writer import CacheWriter
    from iapo.config import with_overrides
    from iapo.data.store import read_split
    from iapo.models import load_model
    from iapo.probe import read_misses
    from iapo.teacher import TeacherPass
    from iapo.teacher_cache import TeacherCache, cache_stats, read_manifest
    from iapo.train import training_prompts
    from iapo.types import TEST_SETS

    attribution = {**snakemake.params.attribution, "points": run.config.attribution.points}
    config = with_overrides(run.config, {"attribution": attribution}, "cache")
    manifest, weights = Path(snakemake.input.manifest), Path(snakemake.input.teacher)
    cache = Path(snakemake.params.work)
    queue = read_misses(Path(path).parent.parent / "work" for path in snakemake.input.weights)
    model, processor = load_model(weights.parent, device=config.device)
    examples = training_prompts(read_split(manifest.parent, "train", TEST_SETS), config.train.prompts_per_set)
    with exclusive(cache):
        address = read_manifest(cache)["fingerprint"]
        teacher = TeacherPass(model, processor, config, CacheWriter(cache, address), address)
        added = teacher.fill(examples, queue, TeacherCache(cache))
    stats = cache_stats(cache)
    write_json(Path(snakemake.output.stats), stats)
    run.write_record(
        Path(snakemake.output.record),
        inputs={"data": manifest, "teacher": weights},
        seeds={},
        added=added,
        **stats,
    )
