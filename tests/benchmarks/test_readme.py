"""README's results are those that are checked in, and no page points at nothing."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy.stats import norm, ttest_1samp

from benchmarks.power_curve import power_curve
from benchmarks.readme import (
    README,
    REFERENCE,
    RESULTS,
    audited,
    forms_block,
    main,
    marks,
    pages,
    quoted,
    said_of_teacher,
    section,
    take,
    with_results,
)
from iapo.artifacts.code_digest import ROOT
from iapo.artifacts.files import between_marks, write_json
from iapo.config.schema import load_config


def test_every_page_has_the_results_that_are_checked_in() -> None:
    found = pages()
    names = {"README.md", "results.md", "ablations.md", "audit.md", "sparse.md", "flat_groups.md", "hints.md"}
    assert {path.name for path in found} == names
    assert [str(path) for path, text in found.items() if path.read_text() != text] == []


def test_readme_says_how_long_mini_takes_and_from_how_many_starts() -> None:
    config = load_config(yaml.safe_load((ROOT / "config/mini.yaml").read_text()))
    starts = config.student.cold_starts
    assert len(config.seeds) == starts and f"{('four', 'five', 'six', 'seven', 'eight')[starts - 4]} cold starts" in (
        README.read_text()
    )
    asked = f"{config.data.test_per_set * len(config.test_sets)} questions"
    assert all(asked in page.read_text() for page in (README, RESULTS))
    contrasts, cost = (pd.read_csv(REFERENCE / f"{name}.csv") for name in ("contrasts", "cost"))
    (curve,) = power_curve(contrasts, cost, [starts]).to_dict("records")
    (said,) = re.findall(r"(\d+) minutes on 2 CPU cores", README.read_text())
    assert int(said) == pytest.approx(curve["minutes"], abs=5)


def test_what_readme_says_of_the_teacher_in_words_is_what_was_found() -> None:
    told = "[cannot tell](docs/informative.md)" in README.read_text()
    assert told == ("**not**" in said_of_teacher((REFERENCE / "main.md").read_text()))
    with pytest.raises(ValueError, match="found no 'Is the teacher informative"):
        said_of_teacher("# Main\n\nnothing\n")


def test_readme_and_the_page_it_links_to_round_alike() -> None:
    for page, found in (
        ("main.md", r"\d+\.\d \[\d+\.\d, \d+\.\d\]"),
        ("contrasts.md", r"[+-]\S+ \[\S+, \S+\](?= points \()"),
    ):
        said, shown = re.findall(found, README.read_text()), (REFERENCE / page).read_text()
        assert said and [each for each in said if each not in shown] == []


def test_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= 90


def test_the_block_says_each_declared_comparison_with_its_runs() -> None:
    cells = {"n_seeds": 2, "ci_low": 0.6, "ci_high": 0.8, "by_seed": "0.6500 0.7500"}
    rows = [
        {"method": method, "test_set": name, "accuracy": 0.7, **cells}
        for method in ("untrained", "teacher", "iapo")
        for name in ("h_bar", "average")
    ]
    found = {"method": "iapo", "baseline": "vtool_r1", "delta": -0.021, "low": -0.05, "high": 0.008, "detectable": 0.04}
    contrasts = pd.DataFrame([found | {"verdict": "inconclusive (±2.9 points)", "by_seed": "-0.0100 -0.0320"}])
    begin, end = marks("results")
    teacher = said_of_teacher(
        "# Main\n\nIs the teacher informative? **not**: the penalty\ndoes not tell. Teachers of other seeds: 0.\n\nx"
    )
    block = with_results(f"before {begin} old {end} after", pd.DataFrame(rows), contrasts, teacher)
    assert block.endswith(f"\n- Is the teacher informative? **not**: the penalty does not tell.\n\n{end} after")
    assert block.startswith(f"before {begin}\n|") and block.endswith(f"{end} after") and "old" not in block
    assert "| iapo " in block and "70.0 [60.0, 80.0] | 65 75" in block and "| teacher" not in block
    assert "`iapo` against `vtool_r1`: **inconclusive (±2.9 points)**, -2.1 [-5.0, +0.8] points" in block
    assert "each run: -1.0 -3.2; could have found 4.0" in block


def test_more_runs_cost_in_proportion_and_find_what_a_simulation_finds() -> None:
    rng = np.random.default_rng(0)
    spread = 0.05
    runs = rng.standard_normal(6)
    # A deviation of six runs is low by a twentieth on average.
    by_seed = " ".join(f"{0.95 * spread * value / runs.std(ddof=1):.6f}" for value in runs)
    told = {"by_seed": by_seed, "run_sd": 0.95 * spread, "items_error": 0.0}
    contrasts = pd.DataFrame([{"method": "a", "baseline": "b", **told}])
    hours = {"a": 0.3, "b": 0.3, "cold starts": 0.4, "teachers": 0.1, "teacher cache": 0.2, "evaluation": 0.3}
    counts = {"cold starts": 8, "teachers": 2}
    cost = pd.DataFrame([{"what": what, "hours": h, "runs": counts.get(what, 6)} for what, h in hours.items()])
    curve = power_curve(contrasts, cost, [6, 12]).set_index("runs")
    # Now all hours over two cores; then twice the runs and the students' six cold starts, whose calls are cached, and
    # the teachers as they are.
    assert curve.loc[6, "minutes"] == pytest.approx(60 * 1.6 / 2)
    assert curve.loc[12, "minutes"] == pytest.approx(60 * (2 * 1.1 + 0.4 * 14 / 8 + 0.1) / 2)
    for n in (6, 12):
        samples = curve.loc[n, "a − b"] + spread * rng.standard_normal((20_000, n))
        found = (ttest_1samp(samples, 0, axis=1).pvalue < 0.05).mean()
        assert found == pytest.approx(0.8, abs=0.03)
    # What the questions add stays, however many runs there are.
    (many,) = power_curve(contrasts.assign(items_error=0.03), cost, [10_000])["a − b"]
    assert many == pytest.approx((norm.ppf(0.975) + norm.ppf(0.8)) * 0.03, rel=0.01)


def test_the_curve_agrees_with_the_table_at_the_table_s_own_number_of_runs() -> None:
    contrasts, cost = (pd.read_csv(REFERENCE / f"{name}.csv") for name in ("contrasts", "cost"))
    (curve,) = power_curve(contrasts, cost, [len(contrasts["by_seed"][0].split())]).to_dict("records")
    for row in contrasts.to_dict("records"):
        assert curve[f"{row['method']} − {row['baseline']}"] == pytest.approx(row["detectable"], rel=0.05)


def test_a_run_without_tables_is_said_and_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = README.read_text()
    assert main([str(tmp_path)]) == 1 and "`make table` writes them" in capsys.readouterr().err
    assert README.read_text() == before
    with pytest.raises(FileNotFoundError, match=r"main\.csv"):
        take(tmp_path)


@pytest.mark.parametrize("text", ["", "end begin", "begin begin end", "begin end end"])
def test_marks_must_be_there_once(text: str) -> None:
    with pytest.raises(ValueError, match="each once"):
        between_marks(text, "begin", "end", "x")


def test_a_study_s_page_is_taken_and_shown_below_a_heading(tmp_path: Path) -> None:
    assert quoted(tmp_path / "reference/sparse.md") == "No finished run is checked in yet."
    page = tmp_path / "sparse/mechanism/page.md"
    page.parent.mkdir(parents=True)
    page.write_text("## Sparse\n\n![curves](page.png)\n\n### Answers\nNone # yet.\n")
    take(tmp_path / "sparse", tmp_path / "reference")
    # The picture is not checked in, and a page that asks for it is a dead link.
    assert "page.png" not in (tmp_path / "reference/sparse.md").read_text()
    assert quoted(tmp_path / "reference/sparse.md") == "### Sparse\n\n#### Answers\nNone # yet."


def test_a_section_of_a_page_is_what_stands_below_its_heading() -> None:
    page = "# One\n\na\n\n## Two\n\n| b |\n\n### Three\nc\n"
    assert section(page, "Two") == "| b |" and section(page, "Three") == "c"
    with pytest.raises(ValueError, match=r"no heading 'Four', expected one of \['One'"):
        section(page, "Four")


def test_of_the_forms_only_the_tables_that_compare_them_are_shown(tmp_path: Path) -> None:
    page = tmp_path / "sparse_forms.md"
    assert forms_block(page) == "No finished run is checked in yet."
    page.write_text("# Sparse\nlong\n### Against the matched control\n| b |\n### Settings by dev accuracy\n| a |\n")
    assert forms_block(page) == ("### Settings by dev accuracy\n| a |\n\n### Against the matched control\n| b |")
    page.write_text("# Sparse\n### Against the matched control\n| b |\n")
    with pytest.raises(ValueError, match="no heading 'Settings by dev accuracy'"):
        forms_block(page)


def test_an_audit_is_taken_with_the_tables_and_shown(tmp_path: Path) -> None:
    run, reference = tmp_path / "mini", tmp_path / "reference"
    (run / "tables").mkdir(parents=True)
    for path in REFERENCE.iterdir():
        (run / "tables" / path.name).write_bytes(path.read_bytes())
    take(run, reference)
    assert audited(reference / "mini") == "No audit of this world is checked in yet."
    stage = {"within_group_r": 0.98, "within_group_r_exact": 1.0, "hit_rate_exact": 0.9}
    write_json(
        run / "audit/summary.json",
        {
            "tv": {"teacher": {"mean": 0.0012, "p95": 0.003, "calls": 7}},
            "stages": {
                "before training": stage,
                "after training": stage | {"within_group_r": 0.99},
                "after filling": {},
            },
        },
    )
    names = ("captum_over_ours", "captum_over_ours_after_training", "captum_over_ours_500_tokens")
    write_json(run / "perf/summary.json", {"iapo_over_grpo_step": 1.284, **dict.fromkeys(names, 6.04)})
    take(run, reference)
    lines = re.sub(r" +", " ", audited(reference / "mini")).splitlines()
    assert "| teacher | 7 | 0.0012 | 0.0030 |" in lines
    assert "| cached against live penalty within groups, *r* | 0.98 | 0.99 |" in lines
    assert "| calls that the cache holds, % | 90.0 | 90.0 |" in lines
    assert "takes 1.28 plain ones" in lines[-1] and "6.0 on prompts of 500 tokens" in lines[-1]


def test_a_run_s_tables_are_taken_as_they_are(tmp_path: Path) -> None:
    tables = tmp_path / "mini/tables"
    tables.mkdir(parents=True)
    for path in REFERENCE.iterdir():
        (tables / path.name).write_bytes(path.read_bytes())
    take(tmp_path / "mini", tmp_path / "reference")
    assert {path.name: path.read_bytes() for path in (tmp_path / "reference/mini").iterdir()} == {
        path.name: path.read_bytes() for path in REFERENCE.iterdir()
    }


def test_the_sparse_page_is_of_starts_as_rare_as_the_study_asks_for() -> None:
    page = (REFERENCE.parent / "sparse.md").read_text()
    rates = {name: float(rate) for name, rate in re.findall(r"^\| `(\w+)` +\| ([\d.]+) +\|", page, re.MULTILINE)}
    assert list(rates) == ["rare", "some", "often"]
    assert 0.3 <= rates["rare"] <= 1 and 3 <= rates["some"] <= 8 and 15 <= rates["often"] <= 30
