"""Train one condition of the mechanism study with every seed and measure what its policies do."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from iapo.provenance import atomic_write, exclusive, job

snakemake: Any

with job(snakemake) as run:
    import pandas as pd

    from baselines.run import TrainingJob, claim_work, run_job
    from benchmarks.mechanism.behaviour import measure
    from iapo.data.store import read_split
    from iapo.models import load_model
    from iapo.teacher_cache import directory_of
    from iapo.types import TEST_SETS

    condition = snakemake.wildcards.condition
    manifest, start = Path(snakemake.input.manifest), Path(snakemake.input.start)
    questions = read_split(manifest.parent, "test", TEST_SETS)
    policies = {0: start.parent}
    metrics: list[pd.DataFrame] = []
    if snakemake.params.trained:
        cache = directory_of(Path(snakemake.input.cache[0])) if snakemake.input.get("cache") else None
        for seed in run.config.seeds:
            work = Path(snakemake.params.work) / f"seed{seed}"
            policies[seed] = work / "model"
            training = TrainingJob(
                method=condition,
                stage="method",
                seed=seed,
                config=asdict(run.config),
                data=manifest.parent,
                start=start.parent,
                work=work,
                output=policies[seed],
                cache=cache,
                code=snakemake.params.code,
            )
            with exclusive(work):
                claim_work(training)
                if (work / "finished.csv").exists():
                    metrics.append(pd.read_csv(work / "finished.csv"))
                    continue
                rows = run_job(training)
            metrics.append(pd.DataFrame(rows).assign(condition=condition, seed=seed))
            with atomic_write(work / "finished.csv") as partial:
                metrics[-1].to_csv(partial, index=False)
    records = []
    for seed, directory in policies.items():
        model, processor = load_model(directory, device=run.config.device)
        measured = measure(model, processor, questions, turn_tokens=run.config.evaluation.turn_tokens)
        records += [{"condition": condition, "seed": seed, **record} for record in measured]
    with atomic_write(Path(snakemake.output.records)) as partial:
        pd.DataFrame(records).to_parquet(partial, index=False)
    with atomic_write(Path(snakemake.output.metrics)) as partial:
        (pd.concat(metrics) if metrics else pd.DataFrame({"condition": []})).to_csv(partial, index=False)
    run.write_record(
        Path(snakemake.output.record),
        inputs={"data": manifest, "start": start},
        seeds={f"train {seed}": seed for seed in policies},
        accuracy=sum(record["score"] for record in records) / len(records),
    )
