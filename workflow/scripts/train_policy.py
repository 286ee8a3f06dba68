"""Train one method with one seed; the teacher is trained by the same script."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from iapo.provenance import atomic_write, exclusive, job

snakemake: Any

with job(snakemake) as run:
    import pandas as pd

    from baselines import METHODS
    from iapo.data.hints import with_hint_rate
    from iapo.data.store import read_split
    from iapo.methods import resolve
    from iapo.teacher_cache import directory_of
    from iapo.train import train
    from iapo.types import TEST_SETS

    of_teacher = snakemake.params.of_teacher
    manifest = Path(snakemake.input.manifest)
    start = Path(snakemake.input.start)
    cache = Path(snakemake.input.cache[0]) if snakemake.input.get("cache") else None
    work = Path(snakemake.params.work)
    seed = int(snakemake.params.seed)
    examples = read_split(manifest.parent, "train", TEST_SETS)
    if of_teacher and run.config.data.hint_rate is not None:
        examples = with_hint_rate(examples, run.config.teacher.train_hint_rate, seed)
    with exclusive(work):
        method, config = resolve(snakemake.params.method, run.config, METHODS)
        rows = train(
            method,
            config,
            config.teacher.train if of_teacher else config.train,
            examples,
            start=start.parent,
            cache=directory_of(cache) if cache else None,
            work=work,
            output=Path(snakemake.output.weights).parent,
            seed=seed,
        )
    with atomic_write(Path(snakemake.output.metrics)) as partial:
        pd.DataFrame(rows).to_csv(partial, index=False)
    run.write_record(
        Path(snakemake.output.record),
        inputs={"data": manifest, "start": start} | ({"teacher_cache": cache} if cache else {}),
        seeds={"train": seed},
        method=snakemake.params.method,
        settings={name: asdict(getattr(config, name)) for name in ("train", "attribution", "alignment")},
    )
