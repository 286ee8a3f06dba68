"""The mechanism study's page, picture and figures, from the records alone."""

from pathlib import Path
from typing import Any

from iapo.provenance import atomic_write, job, write_json

snakemake: Any

with job(snakemake) as run:
    import pandas as pd

    from benchmarks.mechanism.plots import draw
    from benchmarks.mechanism.report import comparisons, conditions_table, findings, page, read_records, reliance

    paths = [Path(path) for path in snakemake.input.records]
    records = read_records(paths)
    metrics = pd.concat([pd.read_csv(path) for path in snakemake.input.metrics], ignore_index=True)
    table, compared, relied = (
        conditions_table(records, metrics),
        comparisons(records, run.config),
        reliance(records),
    )
    lines = findings(compared, relied)
    for frame, output in ((table, snakemake.output.conditions), (compared, snakemake.output.differences)):
        with atomic_write(Path(output)) as partial:
            frame.to_csv(partial, index=False, float_format="%.4f")
    draw(records, metrics, compared, Path(snakemake.output.plots))
    with atomic_write(Path(snakemake.output.page)) as partial:
        partial.write_text(page(table, compared, lines, run.config))
    write_json(Path(snakemake.output.summary), {"findings": lines, "reliance": relied})
    print("\n".join(lines), flush=True)
    run.write_record(
        Path(snakemake.output.record),
        inputs={path.stem: path for path in paths},
        seeds={"bootstrap": run.config.statistics.seed},
    )
