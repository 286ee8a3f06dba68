"""The study's sparse half: what is compared with what, what the words follow from, the page and the picture."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from benchmarks.mechanism.oracle_share import ORACLE, TOO_UNCERTAIN
from benchmarks.mechanism.sparsity import SparseStudy
from benchmarks.mechanism.sparsity_answer import (
    answer,
    constant_sentence,
    control_sentence,
    harm_sentence,
    oracle_sentence,
    primary_sentence,
    share_sentence,
)
from benchmarks.mechanism.sparsity_page import GLANCE, _shown_share, page
from benchmarks.mechanism.sparsity_plots import draw
from benchmarks.mechanism.sparsity_tables import (
    CONTROL,
    HARM,
    PRIMARY,
    cells_table,
    contrasts_table,
    settings_table,
    starts_table,
)
from benchmarks.mechanism.study import main, whole_page
from benchmarks.stats.verdicts import CANNOT_TELL
from iapo.artifacts.code_digest import ROOT
from iapo.config.schema import Config, load_config
from iapo.config.variants import Cell, cells

SETS, ITEMS, STEPS = ("h_bar", "v_bar"), 60, range(0, 31, 5)
RATES = {"some": 0.05, "rare": 0.006}
SHARES = {"group": 0.8, "batch": 0.2, "none": 0.2}


def sparse_config(**more: Any) -> Config:
    """The study's own profile with fewer starts and settings, for speed."""
    raw, forms = (
        yaml.safe_load((ROOT / "config" / name).read_text()) for name in ("sparse.yaml", "presets/sparse_forms.yaml")
    )
    raw["grids"]["forms"] = forms["grids"]["forms"] | {"starts": ["rare"], "seeds": 2}
    # So that there is a share of the oracle's gain.
    raw["grids"]["forms"]["methods"] = [*forms["grids"]["forms"]["methods"], "planted_penalty"]
    raw["statistics"] |= {"bootstrap_draws": 100}
    raw["grids"]["scalings"] |= {"starts": list(RATES), "seeds": 2}
    raw["grids"]["harm"]["starts"] = ["rare"]
    raw["grids"]["constant"]["starts"] = ["rare"]
    del raw["grids"]["scalings"]["settings"]["none"]
    for name in ("advantage", "flat", "right", "loud"):
        del raw["grids"]["forms"]["settings"][name]
    return load_config(raw | more)


def study(config: Config, accuracy: Mapping[Cell, float], spread: float = 0.01) -> SparseStudy:
    """Records of cells with these expected accuracies; runs vary by ``spread``, items are answered alike by all."""
    rng = np.random.default_rng(0)
    ease = {name: rng.permutation(ITEMS) / ITEMS for name in SETS}
    records, metrics = [], []

    def add(condition: str, seed: int, level: float) -> None:
        for name in SETS:
            right = ease[name] < np.clip(level, 0, 1)
            records.extend(
                {"condition": condition, "seed": seed, "example_id": f"{name}-{i}", "test_set": name}
                | {"cluster": f"{name} label {i}", "score": float(right[i]), "right_call": bool(right[i])}
                for i in range(ITEMS)
            )

    for start, rate in RATES.items():
        add(f"untrained_{start}", 0, 0.1 + rate)
    for cell, level in accuracy.items():
        for seed in config.seeds_of(cell.name):
            final = level + spread * rng.standard_normal()
            add(cell.name, seed, final)
            metrics += [_step(cell, seed, step, final) for step in STEPS]
    rates = [
        {
            "stage": start,
            "start": 0,
            "right_rate": rate,
            "groups_with_right": 4 * rate,
            "call_rate": 0.98,
        }
        for start, rate in RATES.items()
    ]
    return SparseStudy(config, pd.DataFrame(records), pd.DataFrame(metrics), pd.DataFrame(rates))


def _step(cell: Cell, seed: int, step: int, final: float) -> dict[str, object]:
    begin = 0.1 + RATES[cell.start]
    row: dict[str, object] = {"condition": cell.name, "seed": seed, "step": step}
    row["dev/accuracy"] = begin + (final - begin) / (1 + np.exp(-(step - 15) / 4))
    if step == 0:
        return row
    row |= {"advantage/flat_outcomes": 0.82, "advantage/outcome_reward_share": 1.0}
    if cell.method != "vtool_r1":
        term = "alignment_reward" if cell.method.startswith("iapo") else "wrong_call_penalty"
        share = SHARES.get(cell.setting, 0.3)
        row |= {
            f"advantage/{term}_share": share,
            f"advantage/{term}_alone": 0.66,
            "advantage/outcome_reward_share": 1 - share,
        }
    return row


def levels(config: Config, **gains: float) -> dict[Cell, float]:
    """The accuracy of each cell: .4, and what its method gains (``iapo``), in one setting alone where it is named
    (``iapo_group``), at one start (``iapo_group_rare``)."""
    return {
        cell: 0.4 + gains.get(cell.method, 0) + gains.get(f"{cell.method}_{cell.setting}", 0) + gains.get(cell.name, 0)
        for cell in cells(config.grids)
    }


@pytest.fixture(scope="module")
def config() -> Config:
    return sparse_config()


@pytest.fixture(scope="module")
def harmed(config: Config) -> SparseStudy:
    """The oracle gains 20 points everywhere; scaling per group costs iapo 17 at the sparsest start."""
    harm = {"iapo_group_rare": -0.17, "iapo_shuffled_group_rare": -0.17}
    return study(config, levels(config, planted_penalty=0.2, **harm), 0.004)


@pytest.fixture(scope="module")
def contrasts(harmed: SparseStudy) -> pd.DataFrame:
    return contrasts_table(harmed)


def test_each_cell_is_compared_with_the_outcome_alone_scaled_alike(contrasts: pd.DataFrame) -> None:
    pairs = set(zip(contrasts["name"], contrasts["baseline"], strict=True))
    assert ("iapo_batch_some", "vtool_r1_batch_some") in pairs
    assert ("iapo_varied_rare", "vtool_r1_group_rare") in pairs and ("iapo_gdpo_rare", "vtool_r1_group_rare") in pairs
    assert ("iapo_varied_rare", "iapo_shuffled_varied_rare") in pairs
    assert not any(name.startswith("vtool_r1") for name, _ in pairs)
    roles = contrasts["role"].value_counts()
    # 2 starts, averaged over the scalings; iapo under scaling per group at both; each of iapo's 4 + 2 cells.
    assert (roles[ORACLE], roles[PRIMARY], roles[HARM], roles[CONTROL]) == (2, 4, 2, 6)


def test_declared_comparisons_average_the_scalings(harmed: SparseStudy, contrasts: pd.DataFrame) -> None:
    declared = contrasts[contrasts["role"].isin([ORACLE, PRIMARY])].set_index(["method", "against", "start"])
    for (method, against, start), row in declared.iterrows():
        cells = [[f"{name}_{scaling}_{start}" for scaling in ("group", "batch")] for name in (method, against)]
        ours, theirs = (np.mean([np.mean(harmed.accuracy_by_seed(name)) for name in names]) for names in cells)
        assert row["delta"] == pytest.approx(ours - theirs, abs=1e-9) and row["setting"] == "averaged"


def test_what_was_declared_is_tested_in_order_at_each_start_and_all_else_for_its_number(
    contrasts: pd.DataFrame,
) -> None:
    declared = contrasts["role"].isin([ORACLE, PRIMARY])
    for _, rows in contrasts[declared].groupby("start", sort=False):
        assert list(rows["role"]) == [ORACLE, PRIMARY, PRIMARY]
        assert list(rows["p_adjusted"]) == pytest.approx([min(1, len(RATES) * p) for p in rows["p"].cummax()])
    assert (contrasts["p_adjusted"] > contrasts["p"])[~declared & (contrasts["p"] < 0.05)].all()


@pytest.mark.parametrize("gain", [0.0, -0.2])
def test_a_start_at_which_the_oracle_is_not_better_cannot_tell(config: Config, gain: float) -> None:
    gains = {f"planted_penalty_{setting}_rare": gain - 0.2 for setting in ("group", "batch")}
    blind = study(config, levels(config, planted_penalty=0.2, iapo=0.1, **gains))
    rows = contrasts_table(blind).query("role == @PRIMARY or start == 'rare'")
    found = {start: set(of["verdict"]) for start, of in rows[rows["role"] == PRIMARY].groupby("start")}
    assert found["rare"] == {CANNOT_TELL} and "better" in found["some"]
    assert not rows.loc[rows["start"] == "rare", "verdict"].str.startswith(("equivalent", "inconclusive")).any()


def test_the_harm_is_told_with_what_removes_it(harmed: SparseStudy, contrasts: pd.DataFrame) -> None:
    _, rare, some = harm_sentence(harmed, contrasts).split("\n  - ")
    assert rare.startswith("`rare`: −1") and ", worse. Early on 82% of the groups have equal outcomes" in rare
    assert "the penalty is 80% of the advantage, and it is alone in 66%" in rare and "Scaling per group harms" in rare
    assert some.startswith("`some`") and "worse" not in some and "harms" not in some
    row = contrasts[(contrasts["role"] == HARM) & (contrasts["start"] == "rare")].iloc[0]
    assert row["delta"] == pytest.approx(-0.17, abs=0.03) and row["verdict"] == "worse"
    change = float(rare.split("`batch` +")[1].split(" points")[0])
    assert change == pytest.approx(17, abs=3) and rare.endswith("(better).")


def test_a_loss_under_every_scaling_is_not_blamed_on_the_scaling(config: Config) -> None:
    everywhere = study(config, levels(config, planted_penalty=0.2, iapo=-0.17))
    said = harm_sentence(everywhere, contrasts_table(everywhere))
    assert said.count("not shown that scaling per group is why") == 2 and "harms" not in said


def test_no_loss_is_no_harm(config: Config) -> None:
    equal = study(config, levels(config, planted_penalty=0.2))
    said = harm_sentence(equal, contrasts_table(equal))
    assert "`rare`" in said and "worse" not in said and "harms" not in said


def test_the_oracle_s_sentence_names_where_it_fails(
    config: Config, harmed: SparseStudy, contrasts: pd.DataFrame
) -> None:
    assert "at every start: `rare` +" in oracle_sentence(harmed, contrasts)
    gains = {f"planted_penalty_{setting}_rare": -0.2 for setting in ("group", "batch")}
    blind = study(config, levels(config, planted_penalty=0.2, **gains))
    contrasts = contrasts_table(blind)
    said = oracle_sentence(blind, contrasts)
    assert "not found better than the outcome alone at `rare`, where this world therefore cannot tell" in said
    cells = cells_table(blind, contrasts)
    text = page(blind, answer(blind, contrasts), starts_table(blind), cells, contrasts)
    assert "The oracle wins at `some`. At `rare` this world cannot tell. `iapo` wins" in text


def test_declared_comparisons_are_told_start_by_start(contrasts: pd.DataFrame) -> None:
    said = primary_sentence(contrasts)
    first, second = said.split(". ")
    before, loss = first.split("`rare` −")
    assert before == "`iapo` against `vtool_r1`, averaged over the scalings: "
    assert float(loss.split()[0]) == pytest.approx(17 / 2, abs=1)
    assert "worse; `some`" in first and second.startswith("`iapo` against `iapo_shuffled`")
    assert "worse" not in second


def test_a_form_that_beats_its_control_is_named_with_its_share_of_the_oracle(config: Config) -> None:
    gains = {"planted_penalty": 0.2, "iapo_varied": 0.1}
    found = study(config, levels(config, **gains), spread=0.001)
    said = control_sentence(found, contrasts_table(found))
    assert "Of 6 pairs" in said and "better in 1 (`varied` at `rare`: +" in said
    share = float(said.split("], ")[1].split("%")[0])
    assert share == pytest.approx(50, abs=8)


def test_without_any_difference_no_form_is_found_better(harmed: SparseStudy, contrasts: pd.DataFrame) -> None:
    assert control_sentence(harmed, contrasts).startswith(
        "No form of the reward is found better than its matched control"
    )


def test_a_penalty_without_differences_must_change_nothing(config: Config, contrasts: pd.DataFrame) -> None:
    assert "is not found to change anything" in constant_sentence(contrasts)
    broken = study(config, levels(config, constant_penalty=0.3), spread=0.001)
    assert "do not trust" in constant_sentence(contrasts_table(broken))


def test_cells_have_their_share_of_the_oracle_s_gain_and_their_runs(config: Config) -> None:
    found = study(config, levels(config, planted_penalty=0.2, iapo=0.1), spread=0.001)
    table = cells_table(found, contrasts_table(found)).set_index("name")
    row = table.loc["iapo_batch_some"]
    assert row["oracle_share"] == pytest.approx(0.5, abs=0.1)
    assert row["oracle_share_low"] < row["oracle_share"] < row["oracle_share_high"]
    assert (
        len(row["accuracy_by_seed"].split()) == 2 and len(table.loc["iapo_group_rare", "steps_to_target"].split()) == 6
    )
    assert row["steps_to_target"] == "10 10" and 0.15 < row["dev_area"] < 0.5
    assert "[" in _shown_share(row.to_dict())
    alone = table.loc["vtool_r1_batch_rare"]
    assert alone["oracle_share_reason"] == "it is the outcome alone" and np.isnan(alone["delta"])


def test_a_share_follows_the_declared_oracle_and_not_each_setting_s(config: Config) -> None:
    # Under one scaling the oracle gains nothing, so no share there has an end; averaged it wins.
    gains = {"planted_penalty_batch_rare": 0.3, "iapo_batch_rare": 0.15}
    found = study(config, levels(config, **gains), spread=0.003)
    contrasts = contrasts_table(found)
    # However many others are compared, each of which makes the correction of this one harsher.
    contrasts.loc[contrasts["role"] == "outcome", "verdict"] = "inconclusive (±9.9 points)"
    table = cells_table(found, contrasts).set_index("name")
    assert table.loc["iapo_batch_rare", "oracle_share"] == pytest.approx(0.5, abs=0.1)
    assert table.loc["iapo_group_rare", "oracle_share_reason"] == TOO_UNCERTAIN
    assert table.loc["iapo_group_some", "oracle_share_reason"] == "the oracle is not found better"
    assert _shown_share(table.loc["iapo_group_rare"].to_dict()) == f"– ({TOO_UNCERTAIN})"


def test_a_start_without_an_oracle_is_not_called_blind(config: Config) -> None:
    grids = {
        name: replace(grid, methods=tuple(m for m in grid.methods if m != "planted_penalty"))
        for name, grid in config.grids.items()
    }
    without = replace(config, grids=grids)
    found = study(without, levels(without))
    contrasts = contrasts_table(found)
    table = cells_table(found, contrasts)
    assert set(table["oracle_share_reason"]) == {"it is the outcome alone", "no oracle in this setting"}
    text = page(found, answer(found, contrasts), starts_table(found), table, contrasts)
    assert "cannot tell" not in text and "No oracle was trained" in text


def test_the_averaged_share_is_told_start_by_start(config: Config) -> None:
    found = study(config, levels(config, planted_penalty=0.2, iapo=0.1), spread=0.001)
    said = share_sentence(found, contrasts_table(found))
    assert said.startswith("Of the oracle's gain `iapo` has, averaged over the scalings: `rare` ")
    shares = [int(part.split("% [")[0].split()[-1]) for part in said.split(": ")[1].split("; ")]
    assert shares == pytest.approx([50, 50], abs=8)
    blind = study(config, levels(config, iapo=0.1))
    assert share_sentence(blind, contrasts_table(blind)) == ""


def test_the_width_of_what_is_open_is_of_what_is_open(config: Config) -> None:
    rows = pd.DataFrame(
        [("equivalent (within ±3 points)", -0.01, 0.01), ("inconclusive (±6.0 points)", -0.06, 0.06)],
        columns=["verdict", "low", "high"],
    ).assign(role=CONTROL)
    said = control_sentence(study(config, levels(config)), rows)
    assert said.endswith("in 2 pairs of setting and start (1 equivalent, 1 inconclusive, by a median of ±6.0 points).")


def test_settings_are_ordered_by_dev_accuracy_where_every_start_has_them(config: Config) -> None:
    found = study(config, levels(config, iapo_batch=0.2, iapo_shuffled_group=-0.2), spread=0.001)
    cells = cells_table(found, contrasts_table(found))
    table = settings_table(found, cells)
    # The forms were trained from one start of two.
    assert list(table["setting"]) == ["batch", "group"]
    area = cells.set_index("name")["dev_area"]
    best, other = table.to_dict("records")
    assert best["studied"] == pytest.approx((area["iapo_batch_rare"] + area["iapo_batch_some"]) / 2)
    assert other["outcome"] == pytest.approx((area["vtool_r1_group_rare"] + area["vtool_r1_group_some"]) / 2)
    assert best["studied"] > best["control"] + 0.05 and other["control"] < other["studied"] - 0.05


def test_starts_are_ordered_by_what_was_measured(harmed: SparseStudy) -> None:
    table = starts_table(harmed)
    assert list(table["start"]) == ["rare", "some"]
    assert table["right_after_right"].tolist() == [1, 1] and table["right_after_other"].tolist() == [0, 0]


def test_the_page_begins_with_the_answer_and_shows_every_cell(
    harmed: SparseStudy, contrasts: pd.DataFrame, tmp_path: Path
) -> None:
    table, answers = cells_table(harmed, contrasts), answer(harmed, contrasts)
    text = page(harmed, answers, starts_table(harmed), table, contrasts)
    assert (
        text.split("\n\n")[1].splitlines() == "\n".join(f"- {each}" for each in answers).splitlines()
        and len(answers) == 6
    )
    assert text.count("\n| ") >= len(table) + 13 and "nan" not in text
    glance = text.split(f"### {GLANCE}\n\n")[1].split("\n\n")[1].splitlines()
    names, values = ([cell.strip() for cell in line.strip("|").split("|")] for line in (glance[0], glance[2]))
    rare = dict(zip(names, values, strict=True))
    assert rare["start"] == "`rare`" and rare["`planted_penalty`"].startswith("**+")
    assert rare["`iapo`, scaled per group"].startswith("**-1") and "**" not in rare["`iapo`, scaled per batch"]
    assert "The oracle wins at every start. `iapo` wins nowhere, and loses scaled per group at `rare`.\n" in text
    said = "corrected for their number, `iapo` wins in: none. It loses in: `group` at `rare` **-1"
    assert said in text.split("### Against the matched control")[1].split("###")[0]
    draw(harmed, tmp_path / "page.png")
    width, height = Image.open(tmp_path / "page.png").size
    assert width < 900 and height > 300


def test_seeds_that_share_cold_starts_are_compared_pair_by_pair(config: Config) -> None:
    paired = sparse_config(student={"cold_starts": 2, "habits": {name: {"demonstrations": {}} for name in RATES}})
    found = study(paired, levels(paired))
    weights = {"iapo_group_rare": 1.0, "iapo_shuffled_group_rare": -1.0}
    assert found._shared_seeds(weights) == [0, 1]
    assert abs(found.contrast(weights).delta) < 0.05
    assert study(config, {Cell("iapo", "group", "rare"): 0.4})._shared_seeds({"iapo_group_rare": 1.0}) is None


def test_one_page_holds_both_halves_behind_their_answers(tmp_path: Path) -> None:
    half = "## Where {}\n\nThe answer {}.\n\n![plots](page.png)\n\nrest\n"
    for name in ("sparse", "mechanism"):
        (tmp_path / name / "mechanism").mkdir(parents=True)
        (tmp_path / name / "mechanism/page.md").write_text(half.format(name, name))
    text = main([tmp_path / "sparse", tmp_path / "mechanism", tmp_path / "absent"]).read_text()
    parts = text.split("\n\n")
    assert parts[1:3] == ["**Where sparse**", "The answer sparse."]
    assert parts[3:5] == ["**Where mechanism**", "The answer mechanism."]
    assert "](sparse/mechanism/page.png)" in text and "](mechanism/mechanism/page.png)" in text
    with pytest.raises(FileNotFoundError, match="make sparse"):
        main([tmp_path / "absent"])
    assert whole_page([("x", "## A\n\nb\n\nc")]).endswith("## A\n\nc\n")
