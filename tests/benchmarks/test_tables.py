"""Tables by hand, from records that lack something, without torch, and traced back to their files."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks.explain_cell import ExplainError, explain_cell, main
from benchmarks.records import RecordsError, write_records
from benchmarks.records_text import TABLES
from benchmarks.results import Results, load_results
from benchmarks.tables.calls import calls_table
from benchmarks.tables.image_help import image_help_table
from benchmarks.tables.main import AVERAGE, difference_table, main_table
from benchmarks.tables.pages import calls_page, scorers_page
from benchmarks.tables.render import Table, latex, markdown, write
from benchmarks.tables.scorers import scorer_table
from benchmarks.tables.training import cost_table, dynamics_table, tuning_table
from benchmarks.tables.write import write_ablations, write_all
from iapo.artifacts.code_digest import ROOT
from iapo.artifacts.files import write_json
from iapo.config.schema import AblationConfig, Config

CONFIG = Config(profile="mini", methods=("vtool_r1", "iapo"), seeds=(0, 1), test_sets=("h_bar", "v_bar"))
RIGHT = {"vtool_r1": "a", "iapo": "abcd", "untrained": "", "teacher_untrained": "a", "teacher": "abc"}
"""Policy → the items that it gets right."""


def record(method: str, seed: int, test_set: str, item: str) -> dict[str, Any]:
    score = float(item in RIGHT[method])
    return {
        "method": method, "seed": seed, "test_set": test_set, "example_id": item, "figure_id": item, "cluster": item,
        "turns": "[]", "call": None, "answer": None, "gold": "1", "score": score,
        "called": item == "a", "call_ok": item == "a", "call_right": item == "a" and method != "teacher",
        "score_official": float(item == "b"),
        "answer_original": None, "score_original": float(item == "a" and method != "teacher"),
        "answer_off": None, "score_off": float(item == "d"), "truncated": False,
    }  # fmt: skip


def records(method: str, seed: int) -> list[dict[str, Any]]:
    return [record(method, seed, test_set, item) for test_set in CONFIG.test_sets for item in "abcd"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """``results/mini`` of a run with two methods."""
    root = tmp_path / "results/mini"
    runs = [(policy, 0) for policy in CONFIG.reference_policies] + [(m, s) for m in CONFIG.methods for s in (0, 1)]
    for method, seed in runs:
        write_records(root / f"eval/{method}/seed{seed}/records.parquet", records(method, seed))
    for method in CONFIG.methods:
        for seed in (0, 1):
            path = root / f"train/{method}/seed{seed}/metrics.csv"
            path.parent.mkdir(parents=True)
            step = np.arange(1, 31)
            metrics = {"step": step, "rewards/outcome_reward/mean": step / 40 + seed / 10, "reward": step / 40}
            metrics |= {"tools/call_rate": np.where(step > 20, 0.1, 0.9) if method == "iapo" else 0.9 + 0 * step}
            metrics |= {"seconds/step": 2.0 + 0 * step, "seconds/attribution": 0.5 * (method == "iapo") + 0 * step}
            pd.DataFrame(metrics).to_csv(path, index=False)
            facts = {"wall_seconds": 60.0 + seed, "threads": 1, "hardware": {}, "config": {"profile": "mini"}}
            write_json(path.with_name("model.run.json"), facts)
    raw = {"profile": "mini", "methods": CONFIG.methods, "seeds": CONFIG.seeds, "test_sets": CONFIG.test_sets}
    write_json(root / "tables/main.run.json", {"config": raw})
    trials = [{"factor": f, "weight": f / 2, "accuracy": 0.5 + f, "call_rate": 1, "items": 8} for f in (0.1, 0.2)]
    write_json(
        root / "tuning/iapo.json", {"method": "iapo", "key": "alignment.weight", "weight": 0.1, "trials": trials}
    )
    return root


@pytest.fixture
def results(folder: Path) -> Results:
    return load_results(folder, CONFIG)


def test_cells_by_hand(results: Results) -> None:
    table = main_table(results).set_index(["method", "test_set"])
    cell = table.loc[("iapo", "h_bar")]
    assert (cell["n_items"], cell["n_seeds"], cell["accuracy"]) == (4, 2, 1.0)
    assert cell["delta_vs_vtool_r1"] == 0.75 and cell["tool_call_rate"] == 0.25 and cell["tool_success_rate"] == 1
    assert table.loc[("iapo", AVERAGE), "n_items"] == 8
    assert np.isnan(table.loc[("vtool_r1", AVERAGE), "delta_vs_vtool_r1"])
    assert table.loc[("untrained_no_tools", "v_bar"), "accuracy"] == 0.25
    assert table.loc[("iapo", AVERAGE), "reported"] == pytest.approx(0.559)
    assert "2606.11652" in table.loc[("iapo", AVERAGE), "reported_source"]
    assert "tool use collapsed (seed 0, 1)" in table.loc[("iapo", AVERAGE), "flags"]
    assert table.loc[("vtool_r1", AVERAGE), "flags"] == ""
    assert set(table["verdict"].str.split(" \\(").str[0]) <= {"", "better", "worse", "equivalent", "inconclusive"}


def test_a_run_on_one_test_set_has_an_average_too(folder: Path) -> None:
    results = load_results(folder, replace(CONFIG, test_sets=("v_bar",)))
    table = main_table(results).set_index(["method", "test_set"])
    assert table.loc[("vtool_r1", AVERAGE), "accuracy"] == table.loc[("vtool_r1", "v_bar"), "accuracy"] == 0.25
    assert "| vtool_r1" in write_all(folder, results.config)


def test_every_method_is_compared_with_every_baseline(results: Results) -> None:
    table = difference_table(results).set_index(["method", "baseline"])
    assert table.loc[("iapo", "vtool_r1"), "delta"] == -table.loc[("vtool_r1", "iapo"), "delta"] == 0.75
    assert (table["p_adjusted"] >= table["p"]).all() and len(table) == 2 * 6


def test_did_the_image_help_by_hand(results: Results) -> None:
    row = image_help_table(results).set_index("method").loc["iapo"]
    assert (row["accuracy"], row["accuracy_original"], row["accuracy_off"]) == (1.0, 0.25, 0.25)
    assert (row["help"], row["gain"], row["harm"]) == (0.75, 0.75, 0.0)
    assert image_help_table(results).set_index("method").loc["vtool_r1", "gain"] == 0


def test_med_s_four_parts_add_up_to_the_difference_to_no_tools(results: Results) -> None:
    # Item a alone is called for, item d alone is right without tools.
    table = image_help_table(results).set_index("method")
    parts = ["call_gain", "schema_gain", "call_harm", "schema_harm"]
    assert table.loc["iapo", parts].tolist() == [0.25, 0.5, 0, 0]
    assert table.loc["teacher", parts].tolist() == [0.25, 0.5, 0, 0.25]
    assert table.loc["untrained", parts].tolist() == [0, 0, 0, 0.25]
    signed = table["call_gain"] + table["schema_gain"] - table["call_harm"] - table["schema_harm"]
    assert signed.tolist() == pytest.approx((table["accuracy"] - table["accuracy_off"]).tolist())


def test_what_follows_from_the_call_by_hand(results: Results) -> None:
    table = calls_table(results).set_index("method")
    assert "untrained_no_tools" not in table.index
    row = table.loc["vtool_r1"]
    assert row[["right_calls", "other_calls", "no_calls"]].tolist() == [0.25, 0, 0.75]
    assert (row["right_after_right"], row["right_after_no"], row["room"]) == (1, 0, 0.75)
    assert np.isnan(row["right_after_other"])
    teacher = table.loc["teacher"]
    assert (teacher["right_calls"], teacher["other_calls"], teacher["right_after_other"]) == (0, 0.25, 1)
    assert np.isnan(teacher["room"]) and teacher["right_after_no"] == pytest.approx(2 / 3)
    assert calls_page(results).shown.set_index("method").loc["vtool_r1", "room"] == "+75.0"


def test_cells_averages_and_differences_have_one_kind_of_interval(folder: Path) -> None:
    # One seed right everywhere and one nowhere: over items alone the interval of a cell would be narrow.
    for seed, score in ((0, 1.0), (1, 0.0)):
        rows = [record("iapo", seed, name, item) | {"score": score} for name in CONFIG.test_sets for item in "abcd"]
        write_records(folder / f"eval/iapo/seed{seed}/records.parquet", rows)
    table = main_table(load_results(folder, CONFIG)).set_index(["method", "test_set"])
    for column in (*CONFIG.test_sets, AVERAGE):
        assert (table.loc[("iapo", column), "ci_low"], table.loc[("iapo", column), "ci_high"]) == (0, 1)


def test_training_tables_by_hand(results: Results) -> None:
    row = dynamics_table(results).set_index(["method", "step"]).loc[("vtool_r1", 20)]
    assert (row["outcome_min"], row["outcome_max"], row["outcome_mean"]) == pytest.approx((0.5, 0.6, 0.55))
    cost = cost_table(results).set_index("what")
    assert cost.loc["iapo", "hours"] == pytest.approx(121 / 3600) and cost.loc["iapo", "attribution_share"] == 0.25
    assert tuning_table(results.folder)["chosen"].tolist() == [False, True]
    trials = tuning_table(results.folder)
    expected = (trials["accuracy"] * (1 - trials["accuracy"]) / trials["items"]) ** 0.5
    assert trials["standard_error"].tolist() == pytest.approx(expected.tolist()) and expected.min() > 0


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.unlink(), "iapo seed 1: .*not found"),
        (lambda path: write_records(path, records("iapo", 1)[:-1]), "iapo seed 1: lacks 1 of 4 items \\(d"),
        (lambda path: write_records(path, records("iapo", 1)[:4]), "iapo seed 1: lacks 4 of 4 items"),
        (lambda path: write_records(path, records("iapo", 1) + records("iapo", 1)[-1:]), "1 records twice of v_bar"),
        (
            lambda path: write_records(path, [r | {"score": None} for r in records("iapo", 1)]),
            "4 items without a score",
        ),
    ],
    ids=["no file", "an item short", "an empty set", "an item twice", "no score"],
)
def test_what_is_missing_is_named_and_not_averaged(folder: Path, damage: Any, said: str) -> None:
    damage(folder / "eval/iapo/seed1/records.parquet")
    table = main_table(load_results(folder, CONFIG)).set_index(["method", "test_set"])
    row = table.loc[("iapo", AVERAGE)]
    assert np.isnan(row["accuracy"]) and np.isnan(row["delta_vs_vtool_r1"])
    assert pd.Series([row["verdict"]]).str.contains("not computed: .*" + said).all(), row["verdict"]
    assert table.loc[("vtool_r1", AVERAGE), "accuracy"] == 0.25
    assert "not computed" in write_all(folder, CONFIG)


def test_items_of_one_run_alone_make_every_other_run_incomplete(folder: Path) -> None:
    strange = [row | {"example_id": row["example_id"] + "x"} for row in records("iapo", 1)]
    write_records(folder / "eval/iapo/seed1/records.parquet", strange)
    assert main_table(load_results(folder, CONFIG))["accuracy"].isna().all()


def test_no_records_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RecordsError, match="snakemake"):
        load_results(tmp_path, CONFIG)


def test_tables_come_from_the_records_alone_without_torch_and_equal(folder: Path) -> None:
    code = (
        "import sys; from benchmarks.tables.__main__ import main; main([sys.argv[1]]); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'lmms_eval')))"
    )
    names = (
        "main",
        "contrasts",
        "differences",
        "calls",
        "image_help",
        "scorers",
        "dynamics",
        "tuning",
        "reported",
        "cost",
    )
    found = []
    for _ in range(2):
        assert subprocess.run([sys.executable, "-c", code, str(folder)], cwd=ROOT, check=False).returncode == 0
        found.append([(folder / f"tables/{name}.{end}").read_bytes() for name in names for end in ("csv", "md", "tex")])
    assert found[0] == found[1] and all(found[0])
    for name in ("learning_curves", "dynamics", "forest", "block_shares", "image_help"):
        assert (folder / f"figures/{name}.png").stat().st_size > 1000


def test_every_cell_of_every_table_can_be_traced(folder: Path) -> None:
    write_all(folder, CONFIG)
    traced = 0
    for path in sorted((folder / "tables").glob("*.csv")):
        table = pd.read_csv(path, keep_default_na=False)
        keys = table.columns[:2] if path.stem not in ("cost", "image_help", "calls") else table.columns[:1]
        if path.stem == "tuning":
            keys = ["method", "factor"]
        if path.stem == "reported":
            keys = ["model", "measured_on", "scorer", "percent"]
        for row in (table.iloc[0], table.iloc[-1]):
            for column in table.columns:
                text = explain_cell(path, {key: str(row[key]) for key in keys}, column)
                written, again = (line.split(": ", 1)[1] for line in text.splitlines()[1:3])
                assert written == again, text
                traced += 1
    assert traced > 100
    text = main([str(folder / "tables/main.csv"), "method=iapo", "test_set=h_bar", "delta_vs_vtool_r1"])
    assert "runs of iapo" in text and "runs of vtool_r1" in text and "h_bar: 1 of 4 items right: a=1, b=0" in text


def test_a_cell_that_is_not_there_is_an_error(folder: Path) -> None:
    write_all(folder, CONFIG)
    path = folder / "tables/main.csv"
    with pytest.raises(ExplainError, match="found 0 rows"):
        explain_cell(path, {"method": "nobody", "test_set": "h_bar"}, "accuracy")
    with pytest.raises(ExplainError, match="has no column 'acuracy'"):
        explain_cell(path, {"method": "iapo", "test_set": "h_bar"}, "acuracy")
    with pytest.raises(ExplainError, match="found no table"):
        explain_cell(folder / "tables/other.csv", {"method": "iapo"}, "accuracy")


def test_the_documentation_has_the_columns_of_every_table(folder: Path) -> None:
    write_all(folder, CONFIG)
    found = {path.stem: list(pd.read_csv(path, nrows=0)) for path in (folder / "tables").glob("*.csv")}
    assert set(found) == set(TABLES) - {"ablations"}
    # Dynamics are of those metrics that the run has.
    assert set(found.pop("dynamics")) <= set(TABLES["dynamics"])
    assert found == {name: list(TABLES[name]) for name in found}


def test_latex_escapes_what_it_must(tmp_path: Path) -> None:
    table = Table("t", pd.DataFrame({"a": [1]}), "50 % of `a_b`", pd.DataFrame({"a_b": ["x & y", "≥ 5 %"]}), ["**n**"])
    text = latex(table)
    assert r"a\_b" in text and r"x \& y" in text and r"$\geq$ 5 \%" in text and r"50 \% of a\_b" in text
    assert "**n**" in markdown(table)
    write(table, tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".csv", ".md", ".tex"}


def test_tables_fit_a_terminal(folder: Path) -> None:
    write_all(folder, CONFIG)
    wide = {
        path.stem
        for path in (folder / "tables").glob("*.md")
        for line in path.read_text().splitlines()
        # A command is left in one line, to be copied.
        if len(line) > 100 and "`python" not in line
    }
    assert wide == set()


def test_a_wide_table_comes_in_parts_that_name_their_rows() -> None:
    shown = pd.DataFrame({"method": ["iapo"], "against": ["trm"], **{f"column {i}": ["x" * 30] for i in range(3)}})
    text = markdown(Table("t", shown, "word " * 40, shown, ["`" + "code " * 30 + "`"], keys=2))
    first, second, caption, note = text.strip().split("\n\n")
    assert first.splitlines() == [
        "| method | against | column 0                       | column 1                       |",
        "| ------ | ------- | ------------------------------ | ------------------------------ |",
        f"| iapo   | trm     | {'x' * 30} | {'x' * 30} |",
    ]
    assert second.splitlines()[0] == "| method | against | column 2                       |"
    assert max(map(len, caption.splitlines())) <= 100 and caption.split() == ["word"] * 40
    assert note == "`" + "code " * 30 + "`"


def test_an_ablation_changes_one_setting(folder: Path) -> None:
    config = replace(CONFIG, ablations=AblationConfig(grid={"alignment.weight": (0.1, 2.0)}))
    assert list(config.ablated) == ["alignment_weight_0p1", "alignment_weight_2p0"]
    assert config.all_variants["alignment_weight_0p1"].settings == {"alignment": {"weight": 0.1}}
    # One variant answers as vtool_r1 does, the other was not evaluated.
    for seed in config.seeds:
        rows = [row | {"method": "alignment_weight_0p1"} for row in records("vtool_r1", seed)]
        write_records(folder / f"eval/alignment_weight_0p1/seed{seed}/records.parquet", rows)
    assert "as configured" in write_ablations(folder, config)
    table = pd.read_csv(folder / "tables/ablations.csv")
    assert list(table) == list(TABLES["ablations"])
    assert table["accuracy"].tolist()[:2] == [1.0, 0.25] and table["delta"].tolist()[1] == -0.75
    assert np.isnan(table["accuracy"][2]) and "not computed: alignment_weight_2p0 seed 1" in table["verdict"][2]


def test_what_the_scorer_is_worth(folder: Path) -> None:
    table = scorer_table(load_results(folder, CONFIG)).set_index(["method", "test_set"])
    assert table.loc[("iapo", "average")].tolist() == [1.0, 0.25, 0.75]
    assert table.loc[("vtool_r1", "h_bar")].tolist() == [0.25, 0.25, 0.5]
    shown = scorers_page(load_results(folder, CONFIG)).shown.set_index("method")
    assert shown.loc["iapo", "average"] == "100.0 / 25.0" and shown.loc["iapo", "judged differently"] == "75.0"
