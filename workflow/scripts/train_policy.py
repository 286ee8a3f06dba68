"""Train one method, seed by seed; the teacher is trained by the same script."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from iapo.provenance import atomic_write, exclusive, job

snakemake: Any

with job(snakemake) as run:
    import pandas as pd

    from baselines import METHODS
    from iapo.config import OVERRIDES
    from iapo.data.hints import with_hint_rate
    from iapo.data.store import read_split
    from iapo.methods import resolve
    from iapo.teacher_cache import directory_of
    from iapo.train import train
    from iapo.types import TEST_SETS

    of_teacher = snakemake.params.of_teacher
    manifest, start = Path(snakemake.input.manifest), Path(snakemake.input.start)
    optional = {name: snakemake.input.get(name) for name in ("cache", "teacher", "choice")}
    cache, teacher, choice = (Path(paths[0]) if paths else None for paths in optional.values())
    weight = json.loads(choice.read_text())["weight"] if choice else None
    method, config = resolve(snakemake.params.method, run.config, METHODS, weight)
    drawn = read_split(manifest.parent, "train", TEST_SETS)
    hinted = of_teacher and run.config.data.hint_rate is not None
    artefacts = zip(snakemake.output.weights, snakemake.output.metrics, snakemake.output.record, strict=True)
    for seed, (weights, metrics, record) in zip(snakemake.params.seeds, artefacts, strict=True):
        examples = with_hint_rate(drawn, config.teacher.train_hint_rate, seed) if hinted else drawn
        # Undeclared on purpose: Snakemake wipes declared outputs when a job is killed.
        work = Path(record).parent / "work"
        with exclusive(work):
            rows = train(
                method,
                config,
                config.teacher.train if of_teacher else config.train,
                examples,
                start=start.parent,
                work=work,
                output=Path(weights).parent,
                seed=seed,
                cache=directory_of(cache) if cache else None,
                teacher=teacher.parent if teacher else None,
                replies=Path(snakemake.params.replies),
            )
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
