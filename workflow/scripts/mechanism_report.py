"""The mechanism study's page, picture and figures, from the records alone."""

from pathlib import Path
from typing import Any

from iapo.artifacts.files import atomic_write, write_json
from iapo.jobs.workflow_job import job

snakemake: Any

with job(snakemake) as run:
    import pandas as pd

    from benchmarks.mechanism.plots import draw
    from benchmarks.mechanism.report import comparisons, conditions_table, findings, page, read_records, reliance
    from benchmarks.tables.render import write_csv

    paths = [Path(path) for path in snakemake.input.records]
    records = read_records(paths)
    runs = zip(snakemake.params.runs, snakemake.input.metrics, strict=True)
    metrics = pd.concat(
        [pd.read_csv(path).assign(condition=method, seed=seed) for (method, seed), path in runs], ignore_index=True
    )
    table, compared, relied = (
        conditions_table(records, metrics),
        comparisons(records, run.config),
        reliance(records),
    )
    lines = findings(compared, relied)
    for frame, output in ((table, snakemake.output.conditions), (compared, snakemake.output.differences)):
        write_csv(frame, Path(output))
    draw(records, metrics, compared, Path(snakemake.output.plots))
    with atomic_write(Path(snakemake.output.page)) as tmp:
        tmp.write_text(page(table, compared, lines, run.config))
    write_json(Path(snakemake.output.summary), {"findings": lines, "reliance": relied})
    run.log.info("\n".join(lines))
    run.write_record(
        Path(snakemake.output.record),
        inputs={path.stem: path for path in paths},
        seeds={"bootstrap": run.config.statistics.seed},
    )
