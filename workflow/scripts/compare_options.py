"""How informative the teachers are under each option, on the dev split."""

from pathlib import Path
from typing import Any

from iapo.artifacts.files import atomic_write
from iapo.jobs.workflow_job import job

snakemake: Any

with job(snakemake) as run:
    import pandas as pd

    from benchmarks.audit.teachers import compare_options
    from iapo.data.selection import training_prompts
    from iapo.data.store import read_split
    from iapo.models.loading import load_to_run
    from iapo.rollout.call_sampling import sample_calls
    from iapo.rollout.generation import Sampling
    from iapo.types import TEST_SETS

    config = run.config
    manifest, weights = Path(snakemake.input.manifest), Path(snakemake.input.student)
    dev = training_prompts(read_split(manifest.parent, "dev", TEST_SETS), config.audit.prompts_per_set)
    student = load_to_run(weights.parent, config)
    teachers = {
        seed: load_to_run(Path(snakemake.input[f"teacher{seed}"]).parent, config) for seed in config.asked_teachers
    }
    calls = sample_calls(
        *student,
        dev,
        rollouts=config.audit.rollouts,
        sampling=Sampling.of(config.train),
        turn_tokens=config.evaluation.turn_tokens,
        seed=config.student.cold_start.seed,
    )
    rows = compare_options(student, teachers, {example.example_id: example for example in dev}, calls, config)
    table = pd.DataFrame(rows)
    with atomic_write(Path(snakemake.output.table)) as tmp:
        table.to_csv(tmp, index=False)
    run.log.info(str(table.groupby("option", sort=False)[["auc", "correlation", "penalty_std"]].mean().round(3)))
    run.write_record(
        Path(snakemake.output.record),
        inputs={"data": manifest, "student": weights},
        seeds={"rollouts": config.student.cold_start.seed},
        options=len(table),
    )
