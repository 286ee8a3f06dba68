"""Train a tiny model from random weights to an imperfect user of the tools."""

from pathlib import Path
from typing import Any

from iapo.provenance import job

snakemake: Any

with job(snakemake) as run:
    from iapo.cold_start import cold_start
    from iapo.data.store import read_split
    from iapo.models import build_model, save_model
    from iapo.types import TEST_SETS

    policy = snakemake.wildcards.policy
    settings = getattr(run.config, policy)
    manifest = Path(snakemake.input.manifest)
    examples = read_split(manifest.parent, "train", TEST_SETS)
    hints = run.config.data.hint_rate is not None
    model, processor = build_model(settings.model, seed=settings.cold_start.seed, hints=hints)
    cold_start(model, processor, examples, settings.cold_start, name=policy)
    save_model(model, processor, Path(snakemake.output.weights).parent)
    run.write_record(
        Path(snakemake.output.record),
        inputs={"data": manifest},
        seeds={"cold_start": settings.cold_start.seed},
        parameters=sum(parameter.numel() for parameter in model.parameters()),
    )
