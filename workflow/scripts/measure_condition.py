"""Measure what policies of the mechanism study do, condition by condition: trained seeds, or models as they are."""

from pathlib import Path
from typing import Any

from iapo.artifacts.files import atomic_write
from iapo.jobs.workflow_job import job

snakemake: Any

with job(snakemake) as run:
    import pandas as pd

    from benchmarks.mechanism.answers import answer
    from benchmarks.mechanism.behaviour import measure
    from iapo.data.store import read_split
    from iapo.models.loading import load_to_run
    from iapo.types import TEST_SETS

    manifest = Path(snakemake.input.manifest)
    sets = [name for name in TEST_SETS if name in run.config.test_sets]
    questions = read_split(manifest.parent, "test", sets)
    # Block shares and edited prompts mean something where there are hints.
    look = answer if run.config.data.hint_rate is None else measure
    models = [(*of, Path(path)) for of, path in zip(snakemake.params.policies, snakemake.input.models, strict=True)]
    for condition, output in zip(snakemake.params.conditions, snakemake.output.records, strict=True):
        records = []
        for seed, weights in [(seed, path) for name, seed, path in models if name == condition]:
            model, processor = load_to_run(weights.parent, run.config)
            measured = look(model, processor, questions, turn_tokens=run.config.evaluation.turn_tokens)
            records += [{"condition": condition, "seed": seed, **record} for record in measured]
        with atomic_write(Path(output)) as tmp:
            pd.DataFrame(records).to_parquet(tmp, index=False)
        accuracy = sum(record["score"] for record in records) / len(records)
        run.log.info(f"{condition}: accuracy {accuracy:.3f}")
    run.write_record(
        Path(snakemake.output.record),
        inputs={"data": manifest, **{f"{name}, seed {seed}": weights for name, seed, weights in models}},
        seeds={f"{name}, train {seed}": seed for name, seed, _ in models},
    )
