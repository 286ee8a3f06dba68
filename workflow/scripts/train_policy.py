"""Train one method, seed by seed; the teacher and the student's first stage are trained by the same script."""

import json
from pathlib import Path
from typing import Any

from iapo.artifacts.files import atomic_write, directory_beside
from iapo.jobs.workflow_job import job

snakemake: Any

with job(snakemake) as run:
    import pandas as pd

    from baselines.run import TrainingJob, run_job
    from iapo.config.declared import with_value
    from iapo.config.schema import load_config
    from iapo.training.checkpoints import drop_checkpoints
    from iapo.training.side_files import side_files

    manifest, params = Path(snakemake.input.manifest), snakemake.params
    settings, choice = params.settings, next(map(Path, snakemake.input.get("choice", [])), None)
    if choice:
        settings = with_value(settings, params.weight, json.loads(choice.read_text())["weight"])

    def of_each_seed(name: str) -> list[Path | None]:
        """One input of each seed, or none of any where the method has none."""
        paths = list(snakemake.input.get(name, []))
        return [Path(path) for path in paths] if paths else [None] * len(params.seeds)

    sources = zip(snakemake.input.start, of_each_seed("cache"), of_each_seed("teacher"), strict=True)
    artefacts = zip(snakemake.output.weights, snakemake.output.metrics, snakemake.output.record, strict=True)
    for seed, (start, cache, teacher), made in zip(params.seeds, sources, artefacts, strict=True):
        weights, metrics, record = made
        training = TrainingJob(
            method=params.method,
            name=params.name,
            seed=seed,
            settings=settings,
            config=snakemake.config,
            data=manifest.parent,
            start=Path(start).parent,
            # Undeclared on purpose: Snakemake wipes declared outputs when a job is killed.
            run_dir=Path(record).parent / "work",
            output=Path(weights).parent,
            hint_rate=params.get("hint_rate"),
            cache=directory_beside(cache) if cache else None,
            teacher=teacher.parent if teacher else None,
            replies=Path(params.replies) if params.get("replies") else None,
            code=params.code,
            tracking=manifest.parent.parent / "tracking",
        )
        rows = run_job(training)
        with atomic_write(Path(metrics)) as tmp:
            pd.DataFrame(rows).to_csv(tmp, index=False)
        inputs = {"data": manifest, "start": Path(start), "teacher_cache": cache, "teacher": teacher, "choice": choice}
        run.write_record(
            Path(record),
            inputs={name: path for name, path in inputs.items() if path},
            seeds={"train": seed},
            more_outputs=side_files(Path(record), training.run_dir),
            method=params.name,
            settings=settings,
        )
    # Last of all: until here a killed job loses its outputs and takes them from these again. Tiny models keep theirs.
    if load_config(snakemake.config).sources:
        for record in snakemake.output.record:
            drop_checkpoints(Path(record).parent / "work")
