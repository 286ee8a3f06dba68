"""The policy that reinforcement learning starts from: a downloaded one, or a tiny one taught to use the tools badly."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from iapo.jobs.workflow_job import job

snakemake: Any

with job(snakemake) as run:
    policy = snakemake.wildcards.policy
    settings = getattr(run.config, policy)
    directory, record = Path(snakemake.output.weights).parent, Path(snakemake.output.record)
    if settings.model.pretrained:
        from iapo.models.pretrained import prepare

        source = Path(snakemake.input.source[0])
        model = prepare(source.parent, directory, settings.model.pretrained)
        inputs, seeds = {"source": source}, {}
    else:
        from iapo.cold_start.stages import cold_start
        from iapo.data.store import read_split
        from iapo.models.loading import save_model
        from iapo.models.tiny import build_model
        from iapo.types import TEST_SETS

        manifest = Path(snakemake.input.manifest)
        examples = read_split(manifest.parent, "train", TEST_SETS)
        stages, start = settings.cold_start, int(snakemake.wildcards.start)
        stages = replace(stages, seed=stages.seed + start)
        model, processor = build_model(settings.model, seed=stages.seed, data=run.config.data)
        cold_start(model, processor, examples, stages, name=f"{policy} {start}")
        save_model(model, processor, directory)
        inputs, seeds = {"data": manifest}, {"cold_start": stages.seed}
    run.write_record(record, inputs=inputs, seeds=seeds, parameters=model.num_parameters())
