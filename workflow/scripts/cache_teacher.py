"""Attribute the teacher's candidate calls, and the student's, into the cache."""

import json
import shutil
from pathlib import Path
from typing import Any

from iapo.provenance import exclusive, job, write_json

snakemake: Any

with job(snakemake) as run:
    from iapo.cache_writer import CacheWriter
    from iapo.config import with_overrides
    from iapo.data.store import read_split
    from iapo.models import load_model
    from iapo.probe import read_calls
    from iapo.teacher import TeacherPass
    from iapo.teacher_cache import (
        CacheError,
        TeacherCache,
        cache_stats,
        fingerprint,
        hash_processor,
        hash_weights,
        read_manifest,
    )
    from iapo.train import training_prompts
    from iapo.types import TEST_SETS

    attribution = {**snakemake.params.attribution, "points": run.config.attribution.points}
    config = with_overrides(run.config, {"attribution": attribution}, "cache")
    manifest, weights = Path(snakemake.input.manifest), Path(snakemake.input.teacher)
    cache = Path(snakemake.params.work)
    model, processor = load_model(weights.parent, device=config.device)
    examples = training_prompts(read_split(manifest.parent, "train", TEST_SETS), config.train.prompts_per_set)
    address = fingerprint(hash_weights(weights.parent), hash_processor(weights.parent), config.teacher_attribution)
    with exclusive(cache):
        try:
            if (cache / "manifest.json").exists() and read_manifest(cache)["fingerprint"] != address:
                raise CacheError(f"{cache} is of another teacher or other settings")
        except CacheError as error:
            print(f"{error}; starting afresh", flush=True)
            shutil.rmtree(cache)
        writer = CacheWriter(cache, address)
        for damage in writer.damaged:
            print(f"rebuilding one shard: {damage}", flush=True)
        teacher = TeacherPass(model, processor, config, writer, address)
        teacher.run(examples)
        keys = teacher.keys(examples)
        made = {keys[example]: calls for example, calls in read_calls(Path(snakemake.input.calls)).items()}
        teacher.fill(examples, made, TeacherCache(cache))
    stats = cache_stats(cache)
    write_json(Path(snakemake.output.stats), stats)
    print(json.dumps(stats), flush=True)
    run.write_record(
        Path(snakemake.output.record),
        inputs={"data": manifest, "teacher": weights, "student_calls": Path(snakemake.input.calls)},
        seeds={"sampled_calls": config.teacher.train_seed},
        attribution=snakemake.params.attribution,
        **stats,
    )
