"""Choose one method's weight on the dev split: short trials from the student's cold start."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from iapo.artifacts.files import directory_beside, write_json
from iapo.jobs.workflow_job import job

snakemake: Any

with job(snakemake) as run:
    from baselines.run import TrainingJob, run_job
    from iapo.config.declared import value_of, with_value
    from iapo.config.schema import load_config
    from iapo.training.checkpoints import drop_checkpoints
    from iapo.training.trial import policy_figures
    from iapo.training.weight_search import DevFigures, best, run_trials

    name, params = snakemake.wildcards.method, snakemake.params
    tuning = run.config.tuning
    manifest, start = Path(snakemake.input.manifest), Path(snakemake.input.start)
    optional = {name: snakemake.input.get(name) for name in ("cache", "teacher")}
    cache, teacher = (Path(paths[0]) if paths else None for paths in optional.values())
    training_settings = {key: params.settings[key] for key in params.training}

    run_dir = Path(params.run_dir)

    def train(weight: float) -> Path:
        """The policy of a trial."""
        folder = run_dir / f"weight_{weight:g}"
        # Too few steps to average over; and what a weight does is seen at the last one.
        settings = with_value(with_value(training_settings, "train.steps", tuning.steps), "train.average_last", 0)
        run_job(
            TrainingJob(
                method=params.method,
                name=name,
                seed=tuning.seed,
                settings=with_value(settings, params.weight, weight),
                config=snakemake.config,
                data=manifest.parent,
                start=start.parent,
                run_dir=folder,
                output=folder / "model",
                cache=directory_beside(cache) if cache else None,
                teacher=teacher.parent if teacher else None,
                replies=Path(params.replies),
                code=params.code,
            )
        )
        return folder / "model"

    def answer(policies: Sequence[Path]) -> list[DevFigures]:
        return policy_figures(policies, manifest.parent, run.config, run_dir)

    trials = run_trials(tuning.factors, value_of(training_settings, params.weight), train, answer)
    chosen = best(trials)
    write_json(
        Path(snakemake.output.choice),
        {"method": name, "key": params.weight, "weight": chosen.weight, "trials": [asdict(each) for each in trials]},
    )
    run.write_record(
        Path(snakemake.output.record),
        inputs={"data": manifest, "start": start} | ({"teacher_cache": cache} if cache else {}),
        seeds={"train": tuning.seed},
        weight=chosen.weight,
    )
    if load_config(snakemake.config).sources:
        drop_checkpoints(run_dir)
