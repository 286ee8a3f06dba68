"""The policy that reinforcement learning starts from: a downloaded one, or a tiny one taught to use the tools badly."""

from pathlib import Path
from typing import Any

from iapo.provenance import job

snakemake: Any

with job(snakemake) as run:
    policy = snakemake.wildcards.policy
    settings = getattr(run.config, policy)
    manifest, directory = Path(snakemake.input.manifest), Path(snakemake.output.weights).parent
    source = snakemake.input.get("source")
    if settings.model.pretrained:
        from iapo.pretrained import prepare

        prepare(Path(source[0]).parent, directory, settings.model.pretrained)
        facts = {"source": Path(source[0])}, {}
    else:
        from iapo.cold_start import cold_start
        from iapo.data.store import read_split
        from iapo.models import build_model, save_model
        from iapo.types import TEST_SETS

        examples = read_split(manifest.parent, "train", TEST_SETS)
        hints = run.config.data.hint_rate is not None
        model, processor = build_model(settings.model, seed=settings.cold_start.seed, hints=hints)
        cold_start(model, processor, examples, settings.cold_start, name=policy)
        save_model(model, processor, directory)
        facts = {"data": manifest}, {"cold_start": settings.cold_start.seed}
    inputs, seeds = facts
    run.write_record(Path(snakemake.output.record), inputs=inputs, seeds=seeds)
