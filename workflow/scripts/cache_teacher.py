"""Attribute the teacher's candidate calls and write the cache."""

from pathlib import Path
from typing import Any

from iapo.provenance import job

snakemake: Any

with job(snakemake) as run:
    import numpy as np

    from iapo.data.store import read_split
    from iapo.models import load_model
    from iapo.teacher import teacher_rows
    from iapo.teacher_cache import (
        TeacherCache,
        fingerprint,
        hash_processor,
        hash_weights,
        write_cache,
    )
    from iapo.train import training_prompts
    from iapo.types import TEST_SETS

    settings = run.config.teacher
    manifest, weights = Path(snakemake.input.manifest), Path(snakemake.input.teacher)
    output = Path(snakemake.output.manifest).parent
    model, processor = load_model(weights.parent, device=run.config.device)
    examples = read_split(manifest.parent, "train", TEST_SETS)
    prompts = training_prompts(examples, run.config.train.prompts_per_set)
    address = fingerprint(hash_weights(weights.parent), hash_processor(weights.parent), settings.attribution)
    write_cache(output, address, teacher_rows(model, processor, prompts, settings, address))
    cache = TeacherCache(output)
    residuals = [row.residual for row in cache.rows]
    run.write_record(
        Path(snakemake.output.record),
        inputs={"data": manifest, "teacher": weights},
        seeds={"sampled_calls": settings.train_seed},
        prompts=len(prompts),
        prompts_with_rows=len(cache.prompts),
        rows=len(cache),
        residual_median=float(np.median(residuals)),
        residual_p95=float(np.quantile(residuals, 0.95)),
    )
