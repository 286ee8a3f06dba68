"""One more supervised stage behind a cold start: the student learns a habit of calling, which is seldom right."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from iapo.jobs.workflow_job import job

snakemake: Any

with job(snakemake) as run:
    from pydantic import TypeAdapter

    from iapo.cold_start.stages import teach_habit
    from iapo.config.mini_world import HabitConfig
    from iapo.data.store import read_split
    from iapo.models.loading import load_model, save_model
    from iapo.types import TEST_SETS

    manifest, cold, weights = (
        Path(path) for path in (snakemake.input.manifest, snakemake.input.start, snakemake.output.weights)
    )
    name, start = snakemake.wildcards.habit, int(snakemake.wildcards.start)
    habit = TypeAdapter(HabitConfig).validate_python(snakemake.params.habit)
    habit = replace(habit, seed=habit.seed + start)
    model, processor = load_model(cold.parent)
    examples = read_split(manifest.parent, "train", TEST_SETS)
    batch_size = run.config.student.cold_start.batch_size
    teach_habit(model, processor, examples, habit, batch_size=batch_size, name=f"{name} {start}")
    save_model(model, processor, weights.parent)
    run.write_record(
        Path(snakemake.output.record), inputs={"data": manifest, "cold_start": cold}, seeds={"habit": habit.seed}
    )
