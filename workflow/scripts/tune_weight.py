"""Choose one method's weight on the dev split: short trials from the student's cold start."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from iapo.provenance import exclusive, job, write_json

snakemake: Any

with job(snakemake) as run:
    from baselines import METHODS
    from baselines.run import TrainingJob, run_job
    from iapo.data.store import read_split
    from iapo.methods import resolve, weight_of
    from iapo.models import load_model
    from iapo.teacher_cache import directory_of
    from iapo.tuning import best, dev_figures, run_trials
    from iapo.types import TEST_SETS

    name, tuning = snakemake.wildcards.method, run.config.tuning
    manifest, start = Path(snakemake.input.manifest), Path(snakemake.input.start)
    cache = Path(snakemake.input.cache[0]) if snakemake.input.get("cache") else None
    teacher = Path(snakemake.input.teacher[0]) if snakemake.input.get("teacher") else None
    work = Path(snakemake.params.work)
    dev = read_split(manifest.parent, "dev", TEST_SETS)

    def trial(weight: float) -> tuple[float, float, int]:
        folder = work / f"weight_{weight:g}"
        run_job(
            TrainingJob(
                method=name,
                stage="method",
                seed=tuning.seed,
                config=asdict(run.config),
                data=manifest.parent,
                start=start.parent,
                work=folder,
                output=folder / "model",
                weight=weight,
                steps=tuning.steps,
                cache=directory_of(cache) if cache else None,
                teacher=teacher.parent if teacher else None,
                replies=Path(snakemake.params.replies),
                code=snakemake.params.code,
            )
        )
        model, processor = load_model(folder / "model", device=run.config.device)
        settings = run.config.evaluation
        return dev_figures(model, processor, dev, batch_size=settings.batch_size, turn_tokens=settings.turn_tokens)

    method, config = resolve(name, run.config, METHODS)
    with exclusive(work):
        trials = run_trials(tuning.factors, weight_of(method, config), trial)
    chosen = best(trials)
    write_json(
        Path(snakemake.output.choice),
        {"method": name, "key": method.weight, "weight": chosen.weight, "trials": [asdict(each) for each in trials]},
    )
    run.write_record(
        Path(snakemake.output.record),
        inputs={"data": manifest, "start": start} | ({"teacher_cache": cache} if cache else {}),
        seeds={"train": tuning.seed},
        weight=chosen.weight,
    )
