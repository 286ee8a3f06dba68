"""Choose one method's weight on the dev split: short trials from the student's cold start."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from iapo.provenance import exclusive, job, write_json

snakemake: Any

with job(snakemake) as run:
    from baselines import METHODS
    from iapo.data.store import read_split
    from iapo.methods import resolve, weight_of
    from iapo.models import load_model
    from iapo.teacher_cache import directory_of
    from iapo.train import train
    from iapo.tuning import best, dev_figures, run_trials
    from iapo.types import TEST_SETS

    name, tuning = snakemake.wildcards.method, run.config.tuning
    manifest, start = Path(snakemake.input.manifest), Path(snakemake.input.start)
    cache = Path(snakemake.input.cache[0]) if snakemake.input.get("cache") else None
    teacher = Path(snakemake.input.teacher[0]) if snakemake.input.get("teacher") else None
    work = Path(snakemake.params.work)
    examples = {split: read_split(manifest.parent, split, TEST_SETS) for split in ("train", "dev")}

    def trial(weight: float) -> tuple[float, float, int]:
        method, config = resolve(name, run.config, METHODS, weight)
        folder = work / f"weight_{weight:g}"
        train(
            method,
            config,
            replace(config.train, steps=tuning.steps),
            examples["train"],
            start=start.parent,
            work=folder,
            output=folder / "model",
            seed=tuning.seed,
            cache=directory_of(cache) if cache else None,
            teacher=teacher.parent if teacher else None,
            replies=Path(snakemake.params.replies),
        )
        model, processor = load_model(folder / "model", device=config.device)
        settings = config.evaluation
        return dev_figures(
            model, processor, examples["dev"], batch_size=settings.batch_size, turn_tokens=settings.turn_tokens
        )

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
