"""The page on the columns of records is written from the code, and the code writes these columns."""

import ast
import json
from pathlib import Path
from typing import TypedDict

import pandas as pd
import pyarrow.parquet as pq
import pytest

from benchmarks.readme import REFERENCE
from benchmarks.records import SCHEMA, ItemRecord
from benchmarks.records_page import PAGE, cache_columns, columns_of, metric_names, page
from benchmarks.records_text import METRICS, MISSES, RUN_RECORD, TABLES
from benchmarks.tables.training import DYNAMICS
from iapo.artifacts.code_digest import ROOT
from iapo.artifacts.run_record import Job, Plan
from iapo.config.schema import load_config
from iapo.data.store import ExampleRow, write_examples
from iapo.rollout.call_sampling import SampledCall, write_calls
from iapo.teacher import rows
from iapo.types import Example


def names(kind: type) -> list[str]:
    return [column.name for column in columns_of(kind)]


def test_the_page_is_today_s() -> None:
    assert PAGE.read_text() == page()


def test_a_field_without_a_text_is_refused() -> None:
    class Bare(TypedDict):
        told: int
        """What it holds."""
        untold: int

    with pytest.raises(ValueError, match=r"Bare\.untold: found no text below it"):
        columns_of(Bare)


def test_answers_and_the_cache_have_the_columns_of_their_schemas() -> None:
    assert names(ItemRecord) == SCHEMA.names
    assert sorted(column.name for column in cache_columns()) == sorted(rows.SCHEMA.names)


def test_questions_and_sampled_calls_are_written_with_these_columns(
    test_examples: list[Example], tmp_path: Path
) -> None:
    write_examples(tmp_path / "questions.parquet", test_examples[:1])
    assert pq.read_table(tmp_path / "questions.parquet").column_names == names(ExampleRow)
    write_calls(tmp_path / "calls.parquet", [SampledCall("a", 0, "text", True)])
    assert pq.read_table(tmp_path / "calls.parquet").column_names == names(SampledCall)


def test_every_metric_that_is_logged_is_explained_and_no_other() -> None:
    assert metric_names() == set(METRICS)


def test_a_run_record_has_these_keys(tmp_path: Path) -> None:
    config = load_config({"profile": "x"})
    job = Job(config, config, Plan("train", ["out"], [], [], threads=1))
    job.write_record(tmp_path / "out.run.json", inputs={}, seeds={})
    assert list(json.loads((tmp_path / "out.run.json").read_text())) == list(RUN_RECORD)


def test_a_missed_call_has_these_keys() -> None:
    tree = ast.parse((ROOT / "iapo/training/attribution_mixin.py").read_text())
    written = [
        [ast.literal_eval(key) for key in node.keys if key] for node in ast.walk(tree) if isinstance(node, ast.Dict)
    ]
    assert list(MISSES) in written


@pytest.mark.parametrize("path", sorted(REFERENCE.glob("*.csv")), ids=lambda path: path.stem)
def test_the_tables_that_are_checked_in_have_these_columns(path: Path) -> None:
    assert list(pd.read_csv(path, nrows=1)) == list(TABLES[path.stem])


def test_the_dynamics_are_of_these_metrics() -> None:
    for name, metric in DYNAMICS.items():
        assert metric in TABLES["dynamics"][f"{name}_mean"]
