"""Tabulate the records of every evaluated policy."""

import json
from pathlib import Path
from typing import Any

from iapo.provenance import atomic_write, job

snakemake: Any

with job(snakemake) as run:
    from benchmarks.records import read_records
    from benchmarks.tables import main_table, table_markdown, write_table_csv

    paths = [Path(path) for path in snakemake.input.records]
    table = main_table(read_records(paths), run.config.statistics, run.config.profile)
    write_table_csv(table, Path(snakemake.output.csv))
    teacher = json.loads(Path(snakemake.input.informative[0]).read_text()) if snakemake.input.informative else None
    folder = Path(snakemake.output.csv).parent.parent
    with atomic_write(Path(snakemake.output.markdown)) as partial:
        partial.write_text(table_markdown(table, run.config, folder=folder, teacher=teacher))
    run.write_record(
        Path(snakemake.output.record),
        inputs={str(path.parent): path for path in paths},
        seeds={"bootstrap": run.config.statistics.seed},
    )
