"""Attribute the teacher's candidate calls, and the student's, into the cache."""

import json
import shutil
from pathlib import Path
from typing import Any

from iapo.artifacts.files import digest, exclusive_beside, sha256_file, write_json
from iapo.jobs.workflow_job import job

snakemake: Any

with job(snakemake) as run:
    from iapo.data.selection import training_prompts
    from iapo.data.store import read_split
    from iapo.models.loading import load_to_run
    from iapo.rollout.call_sampling import read_calls
    from iapo.teacher.build_cache import TeacherPass
    from iapo.teacher.cache import TeacherCache, cache_stats
    from iapo.teacher.fingerprint import fingerprint, hash_processor, hash_weights
    from iapo.teacher.rows import CacheError, read_manifest
    from iapo.teacher.turns import turn_job, written_by_engine
    from iapo.teacher.writer import CacheWriter

    config = run.config
    manifest, weights = Path(snakemake.input.manifest), Path(snakemake.input.teacher)
    cache = Path(snakemake.params.cache_dir)
    examples = training_prompts(read_split(manifest.parent, "train", config.train.sets), config.train.prompts_per_set)
    address = fingerprint(
        hash_weights(weights.parent),
        hash_processor(weights.parent),
        config.teacher_attribution,
        snakemake.params.code,
        config.hardware.precision,
    )
    with exclusive_beside(cache):
        try:
            if (cache / "manifest.json").exists() and read_manifest(cache)["fingerprint"] != address:
                raise CacheError(f"{cache} is of another teacher or other settings")
        except CacheError as error:
            run.log.info(f"{error}; starting afresh")
            shutil.rmtree(cache)
        choose = None
        if config.evaluation.engine != "transformers":
            # Before the teacher is loaded here: an engine takes the GPU whole.
            made_from = digest(f"{address} {sha256_file(manifest)}".encode())
            turns = turn_job(weights.parent, manifest.parent, config, made_from)
            choose = written_by_engine(turns, cache.with_name(f"{cache.name}_turns"))
        model, processor = load_to_run(weights.parent, config)
        writer = CacheWriter(cache, address)
        for damage in writer.damaged:
            run.log.info(f"rebuilding one shard: {damage}")
        teacher = TeacherPass(model, processor, config, writer, choose)
        teacher.run(examples)
        keys = teacher.keys(examples)
        sampled = [read_calls(Path(path)) for path in snakemake.input.calls]
        made = {
            keys[example]: [call for one in sampled for call in one.get(example, [])]
            for example in {name for one in sampled for name in one}
        }
        if teacher.drop_other_students(examples, made):
            run.log.info("the calls of other students than before are attributed afresh")
        teacher.fill(examples, made, TeacherCache(cache))
    stats = cache_stats(cache)
    write_json(Path(snakemake.output.stats), stats)
    run.log.info(json.dumps(stats))
    run.write_record(
        Path(snakemake.output.record),
        inputs={"data": manifest, "teacher": weights}
        | {f"student_calls {i}": Path(path) for i, path in enumerate(snakemake.input.calls)},
        seeds={"sampled_calls": config.teacher.train_seed},
        settings=snakemake.params.settings,
        **stats,
    )
