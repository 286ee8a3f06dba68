"""Evaluate one policy on the test sets with lmms-eval and keep every item's record."""

from pathlib import Path
from typing import Any

from iapo.provenance import job

snakemake: Any

with job(snakemake) as run:
    from benchmarks.agent import FigureAgent
    from benchmarks.evaluate import evaluate
    from benchmarks.records import write_records
    from iapo.data.store import verify_manifest

    manifest, weights = Path(snakemake.input.manifest), Path(snakemake.input.model)
    verify_manifest(manifest.parent)
    settings = run.config.evaluation
    agent = FigureAgent(
        str(weights.parent),
        batch_size=settings.batch_size,
        device=run.config.device,
        turn_tokens=settings.turn_tokens,
    )
    seed = int(snakemake.wildcards.seed)
    records = evaluate(
        agent,
        {name: manifest.parent / "test" / f"{name}.parquet" for name in run.config.test_sets},
        method=snakemake.wildcards.method,
        seed=seed,
    )
    write_records(Path(snakemake.output.records), records)
    run.write_record(
        Path(snakemake.output.record),
        inputs={"data": manifest, "model": weights},
        seeds={"train": seed},
        items=len(records),
        accuracy=sum(record["score"] for record in records) / len(records),
    )
