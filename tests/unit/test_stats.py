"""Intervals that cover what they should, tables whose cells can be checked by hand."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.records import RecordsError, read_records, write_records
from benchmarks.stats import macro_average, paired_difference, wilson
from benchmarks.tables import main_table, write_table_csv
from iapo.config import StatisticsConfig


def test_wilson_known_values() -> None:
    # Newcombe (1998), table I: 81/263 and 15/148.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=1e-4)
    assert wilson(0, 20)[0] == 0 and wilson(20, 20)[1] == 1
    with pytest.raises(ValueError, match="n > 0"):
        wilson(0, 0)


def test_equal_methods_are_rarely_called_different() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(300):
        difficulty = rng.normal(0, 1.5, 200)
        runs = [difficulty + rng.normal(0, 0.4, (3, 1)) + rng.normal(0, 1, (3, 200)) > 0 for _ in range(2)]
        result = paired_difference(*runs, seed=trial, draws=400)
        covered += result.low <= 0 <= result.high
    assert 0.92 <= covered / 300 <= 0.995


def test_a_planted_difference_is_found_and_the_seed_fixes_the_interval() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.random((3, 900)) < 0.6, rng.random((3, 900)) < 0.5
    first, second = paired_difference(a, b, seed=3), paired_difference(a, b, seed=3)
    assert first == second and first.low > 0 and first.p < 0.01
    assert first.delta == pytest.approx(a.mean() - b.mean())


def test_clusters_widen_the_interval() -> None:
    a = np.repeat(np.random.default_rng(2).random((1, 50)) < 0.5, 8, axis=1).astype(float)
    b = np.zeros_like(a)
    alone, shared = paired_difference(a, b), paired_difference(a, b, clusters=list(np.repeat(range(50), 8)))
    assert shared.high - shared.low > 2 * (alone.high - alone.low)


def test_missing_scores_and_other_items_are_refused() -> None:
    with pytest.raises(ValueError, match="missing"):
        paired_difference([[1, np.nan]], [[1, 0]])
    with pytest.raises(ValueError, match="3 items against 2"):
        paired_difference([[1, 0, 1]], [[1, 0]])


def test_macro_average_weighs_sets_alike() -> None:
    result = macro_average({"a": np.ones((1, 10)), "b": np.zeros((1, 1000))})
    assert result.mean == 0.5 and result.standard_error == 0


def record(method: str, seed: int, item: str, score: float) -> dict:
    return {
        "method": method, "seed": seed, "test_set": "h_bar", "example_id": item, "figure_id": item, "turns": "[]",
        "call": None, "answer": None, "gold": "1", "score": score, "called": item == "a", "call_ok": item == "a",
        "truncated": False,
    }  # fmt: skip


def test_cells_by_hand(tmp_path: Path) -> None:
    rows = [record("vtool_r1", s, i, float(i == "a")) for s in (0, 1) for i in "abcd"]
    rows += [record("iapo", s, i, 1.0) for s in (0, 1) for i in "abcd"]
    table = main_table(pd.DataFrame(rows), StatisticsConfig(), "mini").set_index(["method", "test_set"])
    cell = table.loc[("iapo", "h_bar")]
    assert (cell["n_items"], cell["n_seeds"], cell["accuracy"]) == (4, 2, 1.0)
    assert cell["delta_vs_vtool_r1"] == 0.75 and cell["tool_call_rate"] == 0.25 and cell["tool_success_rate"] == 1
    assert np.isnan(table.loc[("vtool_r1", "average"), "delta_vs_vtool_r1"])
    for name in ("one", "two"):
        write_table_csv(table.reset_index(), tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_runs_with_other_items_are_named(tmp_path: Path) -> None:
    write_records(tmp_path / "a", [record("x", 0, "a", 1), record("x", 0, "b", 1)])
    write_records(tmp_path / "b", [record("y", 0, "a", 1)])
    with pytest.raises(RecordsError, match="y seed 0 lacks 1 of 2 items of h_bar, the first b"):
        read_records([tmp_path / "a", tmp_path / "b"])
    with pytest.raises(RecordsError, match="not found"):
        read_records([tmp_path / "c"])
