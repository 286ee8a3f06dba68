"""Evaluate policies, or a model behind an API, on the test sets with lmms-eval and keep every item's record."""

from pathlib import Path
from typing import Any

from iapo.jobs.workflow_job import job

snakemake: Any

with job(snakemake) as run:
    from benchmarks.evaluate import evaluate
    from benchmarks.records import write_records
    from iapo.data.store import verify_manifest

    manifest, method = Path(snakemake.input.manifest), snakemake.wildcards.method
    verify_manifest(manifest.parent)
    settings = run.config.evaluation

    def policy(weights: Path) -> Any:
        from benchmarks.agent import FigureAgent

        return FigureAgent(
            str(weights.parent),
            batch_size=settings.batch_size,
            device=run.config.device,
            precision=run.config.hardware.precision,
            turn_tokens=settings.turn_tokens,
            image_help=settings.image_help,
            engine=settings.engine,
        )

    def api() -> Any:
        from benchmarks.api import ApiModel

        return ApiModel(settings.api_model, reply_tokens=settings.api_tokens)

    models = [Path(path) for path in snakemake.input.models] or [None]
    artefacts = zip(snakemake.output.records, snakemake.output.record, strict=True)
    for seed, weights, (output, record) in zip(snakemake.params.seeds, models, artefacts, strict=True):
        records = evaluate(
            policy(weights) if weights else api(),
            {name: manifest.parent / "test" / f"{name}.parquet" for name in run.config.test_sets},
            method=method,
            seed=seed,
        )
        write_records(Path(output), records)
        run.write_record(
            Path(record),
            inputs={"data": manifest} | ({"model": weights} if weights else {}),
            seeds={"train": seed} if weights else {},
            items=len(records),
            accuracy=sum(each["score"] for each in records) / len(records),
            **({} if weights else {"api_model": settings.api_model}),
        )
