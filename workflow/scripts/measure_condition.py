"""Measure what the policies of one condition of the mechanism study do: its trained seeds, or one model as it is."""

from pathlib import Path
from typing import Any

from iapo.artifacts.files import atomic_write
from iapo.jobs.workflow_job import job

snakemake: Any

with job(snakemake) as run:
    import pandas as pd

    from benchmarks.mechanism.behaviour import measure
    from iapo.data.store import read_split
    from iapo.models.loading import load_model
    from iapo.types import TEST_SETS

    condition, manifest = snakemake.wildcards.condition, Path(snakemake.input.manifest)
    questions = read_split(manifest.parent, "test", TEST_SETS)
    models = {seed: Path(path) for seed, path in zip(snakemake.params.seeds, snakemake.input.models, strict=True)}
    records = []
    for seed, weights in models.items():
        model, processor = load_model(weights.parent, device=run.config.device)
        measured = measure(model, processor, questions, turn_tokens=run.config.evaluation.turn_tokens)
        records += [{"condition": condition, "seed": seed, **record} for record in measured]
    with atomic_write(Path(snakemake.output.records)) as tmp:
        pd.DataFrame(records).to_parquet(tmp, index=False)
    run.write_record(
        Path(snakemake.output.record),
        inputs={"data": manifest, **{f"model of seed {seed}": weights for seed, weights in models.items()}},
        seeds={f"train {seed}": seed for seed in models},
        accuracy=sum(record["score"] for record in records) / len(records),
    )
