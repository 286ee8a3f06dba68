"""Sample the calls of one of the student's starts on the training prompts, and say how often they are right."""

from pathlib import Path
from typing import Any

from iapo.artifacts.files import write_json
from iapo.jobs.workflow_job import job

snakemake: Any

with job(snakemake) as run:
    from iapo.cold_start.call_rates import call_rates
    from iapo.data.selection import training_prompts
    from iapo.data.store import read_split
    from iapo.rollout.call_sampling import sample_calls, write_calls
    from iapo.rollout.engines import load_writer
    from iapo.rollout.generation import Sampling

    manifest, weights = Path(snakemake.input.manifest), Path(snakemake.input.student)
    settings, seed = run.config.train, run.config.student.cold_start.seed
    model, processor = load_writer(
        weights.parent,
        run.config.evaluation.engine,
        device=run.config.device,
        precision=run.config.hardware.precision,
        seed=seed,
    )
    examples = training_prompts(read_split(manifest.parent, "train", settings.sets), settings.prompts_per_set)
    calls = sample_calls(
        model,
        processor,
        examples,
        rollouts=run.config.teacher.student_calls,
        sampling=Sampling.of(settings),
        turn_tokens=run.config.evaluation.turn_tokens,
        seed=seed,
    )
    write_calls(Path(snakemake.output.calls), calls)
    rates = call_rates(calls, prompts=len(examples), rollouts=run.config.teacher.student_calls)
    figures = {**rates, "temperature": settings.temperature}
    stage, start = snakemake.wildcards.stage, int(snakemake.wildcards.start)
    write_json(Path(snakemake.output.rates), {"stage": stage, "start": start, **figures})
    run.log.info(str(figures))
    run.write_record(
        Path(snakemake.output.record),
        inputs={"data": manifest, "student": weights},
        seeds={"rollouts": seed},
        **figures,
    )
