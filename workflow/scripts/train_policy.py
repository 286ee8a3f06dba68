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

    manifest, start, params = Path(snakemake.input.manifest), Path(snakemake.input.start), snakemake.params
    optional = {name: snakemake.input.get(name) for name in ("cache", "teacher", "choice")}
    cache, teacher, choice = (Path(paths[0]) if paths else None for paths in optional.values())
    settings = params.settings
    if choice:
        settings = with_value(settings, params.weight, json.loads(choice.read_text())["weight"])
    artefacts = zip(snakemake.output.weights, snakemake.output.metrics, snakemake.output.record, strict=True)
    for seed, (weights, metrics, record) in zip(params.seeds, artefacts, strict=True):
        training = TrainingJob(
            method=params.method,
            name=params.name,
            seed=seed,
            settings=settings,
            config=snakemake.config,
            data=manifest.parent,
            start=start.parent,
            # Undeclared on purpose: Snakemake wipes declared outputs when a job is killed.
            run_dir=Path(record).parent / "work",
            output=Path(weights).parent,
            hint_rate=params.get("hint_rate"),
            cache=directory_beside(cache) if cache else None,
            teacher=teacher.parent if teacher else None,
            replies=Path(params.replies) if params.get("replies") else None,
            code=params.code,
        )
        rows = run_job(training)
        with atomic_write(Path(metrics)) as tmp:
            pd.DataFrame(rows).to_csv(tmp, index=False)
        inputs = {"data": manifest, "start": start, "teacher_cache": cache, "verifier": teacher, "choice": choice}
        run.write_record(
            Path(record),
            inputs={name: path for name, path in inputs.items() if path},
            seeds={"train": seed},
            method=params.name,
            settings=settings,
        )
