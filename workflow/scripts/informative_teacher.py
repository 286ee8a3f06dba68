"""Ask several teachers whether their attribution is informative about the student's calls."""

from functools import partial
from pathlib import Path
from typing import Any

from iapo.artifacts.files import write_json
from iapo.jobs.workflow_job import job

snakemake: Any

with job(snakemake) as run:
    from benchmarks.audit.teachers import ask_teachers, summary
    from iapo.data.selection import training_prompts
    from iapo.data.store import read_split
    from iapo.models.loading import load_to_run
    from iapo.rollout.call_sampling import read_sampled
    from iapo.types import TEST_SETS

    config = run.config
    manifest, weights = Path(snakemake.input.manifest), Path(snakemake.input.student)
    prompts = training_prompts(read_split(manifest.parent, "train", TEST_SETS), config.audit.prompts_per_set)
    examples = {example.example_id: example for example in prompts}
    calls = [call for call in read_sampled(Path(snakemake.input.calls)) if call.example_id in examples]
    teachers = {
        seed: partial(load_to_run, Path(snakemake.input[f"teacher{seed}"]).parent, config)
        for seed in snakemake.params.asked
    }
    student = partial(load_to_run, weights.parent, config)
    found = summary(ask_teachers(student, teachers, examples, calls, config), calls, snakemake.params.cached)
    run.log.info(f"teacher seed {found['teacher_seed']}: {found['sentence']}")
    write_json(Path(snakemake.output.verdict), found)
    run.write_record(
        Path(snakemake.output.record),
        inputs={"data": manifest, "student": weights, "calls": Path(snakemake.input.calls)},
        seeds={"bootstrap": config.statistics.seed},
        verdict=found["verdict"],
    )
