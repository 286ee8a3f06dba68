"""Published accuracies: complete, each with its scorer, and beside the rows of released weights."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks.records import ItemRecord, write_records
from benchmarks.results import Results, load_results
from benchmarks.tables.main import AVERAGE, REPORTED, main_table, published, published_on_splits
from benchmarks.tables.pages import main_page, reported_page
from benchmarks.tables.render import WIDTH, markdown
from iapo.config.schema import Config
from iapo.config.sources import PretrainedConfig, PromptConfig, ReleasedConfig, RepositoryConfig
from iapo.types import TEST_SETS

REFOCUS = {
    "GPT-4o-0806": "66.4 70.4 90.0 48.9 75.2 74.9",
    "GPT-4o-0806 with ReFocus": "77.2 82.8 90.8 46.2 82.0 81.2",
    "GPT-4o-0513": "66.5 73.2 89.6 49.0 78.2 76.2",
    "GPT-4o-0513 with ReFocus": "76.9 79.6 89.6 57.3 85.4 81.0",
    "VisProg with GPT-4o-0806": "53.2 62.0 76.4 46.8 69.8 68.6",
    "Gemini-1.5-Pro": "38.5 43.2 75.6 38.3 57.2 66.0",
    "Phi-3-vision": "44.7 53.2 74.4 16.2 60.8 66.5",
    "LLaVA-NeXT-34B": "36.4 38.0 71.2 18.9 23.4 12.6",
}
"""ReFocus's Table 1, columns as there."""
COLUMNS = ("vwtq", "vwtq_syn", "vtabfact", "charxiv", "h_bar", "v_bar")
REEVALUATED = {"VTool-R1 7B": (63.8, 68.1), "Qwen2.5-VL-7B": (55.3, 67.4), "Qwen2.5-VL-3B": (16.8, 52.0)}
RELEASED = ReleasedConfig(
    PretrainedConfig(RepositoryConfig("owner/name", "0" * 40)), PromptConfig("prompt.txt", "0" * 64)
)


@pytest.fixture(scope="module")
def reported() -> pd.DataFrame:
    return pd.read_csv(REPORTED)


def test_every_figure_has_a_scorer_and_a_source_and_stands_once(reported: pd.DataFrame) -> None:
    for column in ("model", "measured_on", "scorer", "source", "place", "kind", "certainty"):
        assert reported[column].str.strip().str.len().min() > 0 and reported[column].notna().all(), column
    assert not reported.duplicated(["method", "model", "measured_on", "scorer", "source"]).any()
    assert reported["percent"].between(0, 100).all()
    assert reported["scorer"].str.match("not stated$|exact match$|judge: ").all()


@pytest.mark.parametrize("model", REFOCUS)
def test_refocus_s_table_has_all_six_sets(reported: pd.DataFrame, model: str) -> None:
    rows = reported[(reported["model"] == model) & (reported["source"] == "arXiv 2501.05452")]
    expected = dict(zip(COLUMNS, map(float, REFOCUS[model].split()), strict=True))
    assert dict(zip(rows["test_set"], rows["percent"], strict=True)) == expected
    assert set(expected) == set(TEST_SETS) and rows["scorer"].str.startswith("judge").all()


@pytest.mark.parametrize("model", REEVALUATED)
def test_a_re_evaluation_has_both_scorers(reported: pd.DataFrame, model: str) -> None:
    rows = reported[(reported["model"] == model) & (reported["source"] == "independent re-evaluation")]
    exact, judged = rows.set_index(rows["scorer"].str.partition(":")[0])["percent"][["exact match", "judge"]]
    assert (exact, judged) == REEVALUATED[model]


def test_published_numbers_stay_in_their_column() -> None:
    rows = published()
    assert rows["reported_source"].str.len().min() > 10 and not rows.duplicated(["method", "test_set"]).any()
    assert rows["reported"].between(0, 1).all() and set(rows["test_set"]) <= {*TEST_SETS, AVERAGE}


def test_the_page_says_by_what_each_was_scored(reported: pd.DataFrame) -> None:
    page = reported_page()
    said = dict(re.findall(r"^Scorer (\d+): (.*)\.$", "\n".join(page.notes), re.MULTILINE))
    assert page.shown["scorer"].map(said).tolist() == reported["scorer"].tolist()
    sources = dict(re.findall(r"^Source (\d+): ([^;]*); ", "\n".join(page.notes), re.MULTILINE))
    assert page.shown["source"].map(sources).tolist() == reported["source"].tolist()
    assert page.shown["model"][0] == "Qwen2.5-VL-3B, iapo" and not page.shown["model"].str.contains("released").any()
    assert max(map(len, markdown(page).splitlines())) <= WIDTH


def record(method: str, item: str) -> ItemRecord:
    values: dict[str, Any] = dict.fromkeys(ItemRecord.__annotations__)
    values |= {"method": method, "seed": 0, "test_set": "h_bar", "example_id": item, "figure_id": item, "turns": "[]"}
    values |= {
        "cluster": item,
        "gold": "1",
        "score": float(item == "a"),
        "score_off": 0.0,
        "called": True,
        "call_ok": item == "a",
        "truncated": False,
    }
    return ItemRecord(**values)  # type: ignore[typeddict-item]


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """A run with one method and the two rows of VTool-R1's weights."""
    names = ("released_vtool_r1_3b", "released_vtool_r1_7b")
    config = Config("rehearsal", methods=("vtool_r1",), seeds=(0,), test_sets=("h_bar",))
    config = replace(config, released=dict.fromkeys(names, RELEASED))
    for method, seed in config.evaluated_runs:
        write_records(tmp_path / f"eval/{method}/seed{seed}/records.parquet", [record(method, item) for item in "ab"])
    return load_results(tmp_path, config)


def test_released_weights_have_a_row_with_what_was_published(results: Results) -> None:
    page = main_page(results, None)
    shown = page.shown.set_index("method")["reported"]
    assert shown["released_vtool_r1_3b"] == "chart split 64.0; table split 57.9"
    assert shown["released_vtool_r1_7b"] == "chart split 80.7; table split 71.7, 63.8, 68.1"
    assert shown["vtool_r1"] == "52.9" and shown["untrained"] == "–"
    row = main_table(results).set_index(["method", "test_set"]).loc[("released_vtool_r1_7b", AVERAGE)]
    assert row["accuracy"] == 0.5 and row["tool_call_rate"] == 1 and np.isnan(row["reported"])
    assert "published, under their own prompt" in markdown(page) and "63.8 (exact match)" in markdown(page)


def test_a_released_row_that_nothing_was_published_about(monkeypatch: pytest.MonkeyPatch, results: Results) -> None:
    monkeypatch.setattr("benchmarks.tables.pages.published_on_splits", lambda _: published_on_splits("nobody"))
    assert "nothing that is in reported.csv" in markdown(main_page(results, None))
