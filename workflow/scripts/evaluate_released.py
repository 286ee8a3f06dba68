"""Evaluate weights that others have published on the test sets, under their own prompt."""

from pathlib import Path
from typing import Any

from iapo.jobs.workflow_job import job

snakemake: Any

with job(snakemake) as run:
    from benchmarks.evaluate import evaluate
    from benchmarks.records import write_records
    from benchmarks.released import ReleasedAgent
    from iapo.data.store import verify_manifest

    manifest, source = Path(snakemake.input.manifest), Path(snakemake.input.source)
    prompt, output = Path(snakemake.input.prompt), Path(snakemake.output.records)
    verify_manifest(manifest.parent)
    settings = run.config.evaluation
    agent = ReleasedAgent(
        str(source.parent),
        template=prompt.read_text(),
        batch_size=settings.batch_size,
        device=run.config.device,
        precision=run.config.hardware.precision,
        turn_tokens=settings.turn_tokens,
        image_help=settings.image_help,
        engine=settings.engine,
        **snakemake.params.pixels,
    )
    records = evaluate(
        agent,
        {name: manifest.parent / "test" / f"{name}.parquet" for name in run.config.test_sets},
        method=snakemake.wildcards.method,
        seed=0,
    )
    write_records(output, records)
    run.write_record(
        Path(snakemake.output.record),
        inputs={"data": manifest, "source": source, "prompt": prompt},
        seeds={},
        items=len(records),
        accuracy=sum(each["score"] for each in records) / len(records),
    )
