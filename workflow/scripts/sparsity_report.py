"""The page, the picture and the figures of the mechanism study's sparse half, from the records alone."""

from pathlib import Path
from typing import Any

from iapo.artifacts.files import atomic_write, write_json
from iapo.jobs.workflow_job import job

snakemake: Any

with job(snakemake) as run:
    import pandas as pd

    from benchmarks.mechanism.sparsity import SparseStudy
    from benchmarks.mechanism.sparsity_answer import answer
    from benchmarks.mechanism.sparsity_page import page
    from benchmarks.mechanism.sparsity_plots import draw
    from benchmarks.mechanism.sparsity_tables import cells_table, contrasts_table, read_rates, starts_table
    from benchmarks.tables.render import write_csv

    paths = [Path(path) for path in snakemake.input.records]
    runs = zip(snakemake.params.runs, snakemake.input.metrics, strict=True)
    study = SparseStudy(
        run.config,
        pd.concat([pd.read_parquet(path) for path in paths], ignore_index=True),
        pd.concat([pd.read_csv(path).assign(condition=name, seed=seed) for (name, seed), path in runs]),
        read_rates([Path(path) for path in snakemake.input.rates]),
    )
    starts, contrasts = starts_table(study), contrasts_table(study)
    cells, answers = cells_table(study, contrasts), answer(study, contrasts)
    for frame, output in (
        (starts, snakemake.output.starts),
        (cells, snakemake.output.cells),
        (contrasts, snakemake.output.contrasts),
    ):
        write_csv(frame, Path(output))
    draw(study, Path(snakemake.output.plots))
    with atomic_write(Path(snakemake.output.page)) as tmp:
        tmp.write_text(page(study, answers, starts, cells, contrasts))
    write_json(Path(snakemake.output.summary), {"answers": answers})
    run.log.info("\n".join(answers))
    run.write_record(
        Path(snakemake.output.record),
        inputs={path.stem: path for path in paths},
        seeds={"bootstrap": run.config.statistics.seed},
    )
