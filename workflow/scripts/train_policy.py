"""Train one method, seed by seed; the teacher and the student's first stage are trained by the same script."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from iapo.provenance import atomic_write, exclusive, job

snakemake: Any

with job(snakemake) as run:
    import pandas as pd

    from baselines import METHODS
    from baselines.run import TrainingJob, run_job
    from iapo.config import OVERRIDES
    from iapo.methods import resolve
    from iapo.teacher_cache import directory_of

    manifest, start = Path(snakemake.input.manifest), Path(snakemake.input.start)
    optional = {name: snakemake.input.get(name) for name in ("cache", "teacher", "choice")}
    cache, teacher, choice = (Path(paths[0]) if paths else None for paths in optional.values())
    weight = json.loads(choice.read_text())["weight"] if choice else None
    _, config = resolve(snakemake.params.method, run.config, METHODS, weight)
    artefacts = zip(snakemake.output.weights, snakemake.output.metrics, snakemake.output.record, strict=True)
    for seed, (weights, metrics, record) in zip(snakemake.params.seeds, artefacts, strict=True):
        # Undeclared on purpose: Snakemake wipes declared outputs when a job is killed.
        work = Path(record).parent / "work"
        training = TrainingJob(
            method=snakemake.params.method,
            stage=snakemake.params.stage,
            seed=seed,
            config=asdict(run.config),
            data=manifest.parent,
            start=start.parent,
            work=work,
            output=Path(weights).parent,
            weight=weight,
            cache=directory_of(cache) if cache else None,
            teacher=teacher.parent if teacher else None,
            replies=Path(snakemake.params.replies),
            code=snakemake.params.code,
        )
        with exclusive(work):
            rows = run_job(training)
        with atomic_write(Path(metrics)) as partial:
            pd.DataFrame(rows).to_csv(partial, index=False)
        inputs = {"data": manifest, "start": start, "teacher_cache": cache, "verifier": teacher, "choice": choice}
        run.write_record(
            Path(record),
            inputs={name: path for name, path in inputs.items() if path},
            seeds={"train": seed},
            method=snakemake.params.method,
            settings={name: asdict(getattr(config, name)) for name in OVERRIDES},
        )
