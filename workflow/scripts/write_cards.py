"""A model card beside every policy that was trained."""

import json
from pathlib import Path
from typing import Any

from iapo.jobs.workflow_job import job

snakemake: Any

with job(snakemake) as run:
    import pandas as pd

    from benchmarks.cards import TrainedPolicy, write_card

    table = pd.read_csv(snakemake.input.table, dtype={"by_seed": str})
    params = snakemake.params
    policies = zip(params.rows, params.places, params.summaries, strict=True)
    for policy, record, card in zip(policies, snakemake.input.records, snakemake.output.cards, strict=True):
        row, place, summary = policy
        trained = TrainedPolicy(row, place, summary, json.loads(Path(record).read_text()))
        write_card(Path(card), trained, table, run.config.profile)
    run.write_record(
        Path(snakemake.output.record),
        inputs={str(path): Path(path) for path in snakemake.input},
        seeds={},
    )
