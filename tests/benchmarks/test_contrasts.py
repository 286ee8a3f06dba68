"""What was declared beforehand: the oracle first, and no verdict of "nothing found" where it fails."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.records import ItemRecord, write_records
from benchmarks.results import Results, load_results
from benchmarks.stats import CANNOT_TELL
from benchmarks.tables.contrasts import (
    contrast_table,
    declared_contrasts,
    difference,
    differences_by_seed,
    is_sensitive,
)
from benchmarks.tables.main import AVERAGE, difference_table, main_table
from benchmarks.tables.pages import contrast_page, main_page
from iapo.config.schema import Config, StudentConfig

METHODS = ("vtool_r1", "exact_match", "iapo", "iapo_shuffled")
CONFIG = Config(profile="mini", methods=METHODS, seeds=(0, 1, 2, 3), test_sets=("h_bar", "v_bar"))
LABELS, ITEMS = 60, 120

Made = Callable[[Mapping[str, float]], Results]


def record(method: str, seed: int, test_set: str, item: int, right: bool) -> ItemRecord:
    values: dict[str, Any] = dict.fromkeys(ItemRecord.__annotations__)
    values |= {"method": method, "seed": seed, "test_set": test_set, "example_id": f"{item:03d}"}
    values |= {"figure_id": str(item), "cluster": str(item % LABELS), "turns": "[]", "gold": "1"}
    values |= {"score": float(right), "score_off": 0.0, "called": True, "call_ok": True, "truncated": False}
    return ItemRecord(**values)  # type: ignore[typeddict-item]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """Results of a run whose methods are right with the probabilities given; the others with .5."""

    def make(accuracies: Mapping[str, float]) -> Results:
        for method, seed in CONFIG.evaluated_runs:
            rng = np.random.default_rng([seed, *method.encode()])
            right = rng.random((len(CONFIG.test_sets), ITEMS)) < accuracies.get(method, 0.5)
            rows = [
                record(method, seed, name, item, bool(right[i, item]))
                for i, name in enumerate(CONFIG.test_sets)
                for item in range(ITEMS)
            ]
            write_records(tmp_path / f"eval/{method}/seed{seed}/records.parquet", rows)
        return load_results(tmp_path, CONFIG)

    return make


def test_only_what_is_in_the_run_is_declared() -> None:
    assert declared_contrasts(CONFIG) == [("exact_match", "vtool_r1"), ("iapo", "vtool_r1"), ("iapo", "iapo_shuffled")]
    assert declared_contrasts(replace(CONFIG, methods=("vtool_r1", "iapo"))) == [("iapo", "vtool_r1")]


def test_a_world_with_room_gives_verdicts(made: Made) -> None:
    results = made({"exact_match": 0.8, "iapo": 0.7})
    assert is_sensitive(results)
    table = contrast_table(results)
    assert table["verdict"].tolist() == ["better"] * 3
    assert table["p_sequence"].is_monotonic_increasing and (table["p_sequence"] >= table["p"]).all()


def test_what_runs_and_what_questions_add_is_said_apart(made: Made) -> None:
    results = made({"exact_match": 0.8})
    row = contrast_table(results).set_index("method").loc["exact_match"]
    each = [float(value) for value in row["by_seed"].split()]
    assert row["run_sd"] == pytest.approx(np.std(each, ddof=1), abs=1e-4)
    found = difference(results, "exact_match", "vtool_r1", results.sets)
    assert 0 < row["items_error"] == found.items_error <= found.standard_error
    # Of one run of each there is no spread, and all that is unknown are the questions.
    one = replace(
        results, config=replace(CONFIG, seeds=(0,)), records=results.records.query("seed == 0"), _selections={}
    )
    row = contrast_table(one).set_index("method").loc["exact_match"]
    alone = difference(one, "exact_match", "vtool_r1", one.sets)
    assert np.isnan(row["run_sd"]) and row["items_error"] == pytest.approx(alone.standard_error, rel=0.2)


def test_the_share_of_the_oracle_s_gain_has_an_interval_or_a_reason(made: Made) -> None:
    table = contrast_table(made({"exact_match": 0.8, "iapo": 0.65})).set_index(["method", "baseline"])
    row = table.loc[("iapo", "vtool_r1")]
    assert row["oracle_share"] == pytest.approx(row["delta"] / table.loc[("exact_match", "vtool_r1"), "delta"])
    assert 0 < row["oracle_share_low"] < row["oracle_share"] < row["oracle_share_high"] < 1
    assert table.loc[("exact_match", "vtool_r1"), "oracle_share_reason"] == "it is the oracle's gain"
    assert len(row["by_seed"].split()) == 4
    nothing = contrast_table(made({})).set_index(["method", "baseline"]).loc[("iapo", "vtool_r1")]
    assert np.isnan(nothing["oracle_share"]) and "not found better" in nothing["oracle_share_reason"]


def test_seeds_of_several_cold_starts_are_compared_one_by_one(made: Made) -> None:
    results = made({"exact_match": 0.8})
    several, two = (
        replace(results, config=replace(CONFIG, student=StudentConfig(cold_starts=number)), _selections={})
        for number in (4, 2)
    )
    found, paired = (difference(each, "iapo", "vtool_r1", each.sets) for each in (results, several))
    assert found.delta == paired.delta and found.freedom != paired.freedom
    runs, alone = (differences_by_seed(each, "iapo", "vtool_r1") for each in (several, results))
    assert runs.mean() == pytest.approx(paired.delta) and runs.std() != alone.std()
    assert [each.starts for each in (results, several, two)] == [[0] * 4, [0, 1, 2, 3], [0, 1, 0, 1]]
    assert not results.is_paired("iapo", "vtool_r1") and several.is_paired("iapo", "untrained")
    assert "paired by seed" in contrast_page(several).caption and "Welch" in contrast_page(results).caption


def test_a_world_without_room_cannot_tell(made: Made) -> None:
    results = made({})
    assert is_sensitive(results) is False
    assert set(contrast_table(results)["verdict"]) == {CANNOT_TELL}
    averages = main_table(results).query(f"test_set == '{AVERAGE}'").set_index("method")["verdict"]
    assert averages["iapo"] == averages["exact_match"] == CANNOT_TELL
    assert set(contrast_page(results).shown["verdict"]) == {CANNOT_TELL}


def test_a_difference_that_is_found_is_found_in_any_world(made: Made) -> None:
    averages = main_table(made({"iapo_shuffled": 0.2})).query(f"test_set == '{AVERAGE}'").set_index("method")["verdict"]
    assert averages["iapo_shuffled"] == "worse" and averages["iapo"] == CANNOT_TELL


def test_an_oracle_that_is_worse_does_not_show_sensitivity(made: Made) -> None:
    assert is_sensitive(made({"exact_match": 0.2})) is False


def test_an_oracle_that_is_worse_opens_no_sequence(made: Made) -> None:
    table = contrast_table(made({"exact_match": 0.2, "iapo": 0.8})).set_index(["method", "baseline"])["verdict"]
    assert table["exact_match", "vtool_r1"] == "worse" and table["iapo", "vtool_r1"] == CANNOT_TELL


def test_a_declared_comparison_reads_the_same_the_other_way_round(made: Made) -> None:
    # Corrected for their number, a difference of this size is not found; declared, it is.
    table = difference_table(made({"exact_match": 0.8, "iapo": 0.56})).set_index(["method", "baseline"])
    one, other = table.loc[("iapo", "vtool_r1")], table.loc[("vtool_r1", "iapo")]
    assert one["p"] == other["p"] and one["p_adjusted"] == other["p_adjusted"] and one["delta"] == -other["delta"]
    opposite = {"better": "worse", "worse": "better"}
    assert other["verdict"] == opposite.get(one["verdict"], one["verdict"])


def test_fewer_teachers_than_cold_starts_are_runs_of_their_own(made: Made) -> None:
    results = made({})
    config = replace(CONFIG, student=StudentConfig(cold_starts=4), teacher=replace(CONFIG.teacher, cold_starts=2))
    several = replace(results, config=config, _selections={})
    assert several.is_paired("iapo", "untrained") and several.is_paired("iapo", "untrained_no_tools")
    assert not several.is_paired("teacher", "iapo") and not several.is_paired("teacher_untrained_no_tools", "iapo")


def test_nothing_is_claimed_behind_the_first_failure(made: Made) -> None:
    table = contrast_table(made({"exact_match": 0.8, "iapo_shuffled": 0.2})).set_index(["method", "baseline"])
    last = table.loc[("iapo", "iapo_shuffled")]
    assert last["p"] < 0.001 and last["verdict"] not in ("better", "worse")


def test_a_run_without_an_oracle_says_what_it_found(made: Made) -> None:
    results = made({})
    results = replace(results, config=replace(CONFIG, methods=("vtool_r1", "iapo", "iapo_shuffled")))
    assert is_sensitive(results) is None
    assert set(contrast_table(results)["verdict"].str.split(" ").str[0]) <= {"equivalent", "inconclusive"}


def test_every_run_is_shown_and_a_collapsed_one_counted(made: Made) -> None:
    cells = main_page(made({"untrained": 0.4, "iapo": 0.1}), None).shown.set_index("method")["runs"]
    assert cells["iapo"].endswith("(4 collapsed)") and len(cells["iapo"].split()) == 6
    assert len(cells["vtool_r1"].split()) == 4 and len(cells["untrained"].split()) == 1
