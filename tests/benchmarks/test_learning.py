"""How fast runs learn, by dev accuracy: by hand, in the tables, and with seeds that did not get there."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.results import Results
from benchmarks.tables.main import method_flags
from benchmarks.tables.training import area_under, dynamics_table, steps_to
from benchmarks.tables.training_pages import dynamics_page
from iapo.config.schema import Config

CONFIG = Config(profile="mini", methods=("vtool_r1", "iapo"), seeds=(0, 1))
STEPS = np.arange(31)
DEV = {
    ("vtool_r1", 0): (0.1, 0.3, 0.5, 0.7),
    ("vtool_r1", 1): (0.1, 0.1, 0.1, 0.1),
    ("iapo", 0): (0.1, 0.6, 0.6, 0.6),
    ("iapo", 1): (0.5, 0.6, 0.4, 0.6),
}
"""Run → dev accuracy at steps 0, 10, 20, 30."""


@pytest.fixture
def results(tmp_path: Path) -> Results:
    frames = []
    for (method, seed), accuracy in DEV.items():
        dev = np.full(31, np.nan)
        dev[::10] = accuracy
        rewards = np.where(STEPS > 0, 0.5, np.nan)
        columns = {"reward": rewards, "tools/call_rate": rewards, "dev/accuracy": dev, "dev/right_calls": dev / 2}
        frames.append(pd.DataFrame({"method": method, "seed": seed, "step": STEPS, **columns}))
    return Results(tmp_path, CONFIG, pd.DataFrame(), pd.concat(frames, ignore_index=True), {})


def test_area_and_steps_by_hand() -> None:
    steps, accuracy = np.array([0.0, 10, 30]), np.array([0.2, 0.4, 0.4])
    assert area_under(steps, accuracy) == pytest.approx((3 + 8) / 30)
    assert area_under(steps[:1], accuracy[:1]) == 0.2
    assert steps_to(0.4, steps, accuracy) == 10 and steps_to(0.41, steps, accuracy) is None


def test_every_seed_is_in_the_table(results: Results) -> None:
    table = dynamics_table(results).set_index(["method", "step"])
    row = table.loc[("vtool_r1", 7)]
    assert row["dev_area_by_seed"] == "0.400000 0.100000" and row["dev_area"] == pytest.approx(0.25)
    assert row["steps_to_target_by_seed"] == "20 -" and row["steps_to_target"] == 20
    assert table.loc[("iapo", 30), "steps_to_target_by_seed"] == "10 0"
    assert table.loc[("iapo", 20), "dev_accuracy_max"] == 0.6 and np.isnan(table.loc[("iapo", 21), "dev_accuracy_max"])


def test_the_page_shows_the_last_measured(results: Results) -> None:
    shown = dynamics_page(results).shown.set_index(["method", "step"])
    assert shown.loc[("vtool_r1", "0"), "dev accuracy"] == "10.0"
    # Step 15 shows what was measured at step 10, the mean of .3 and .1.
    assert shown.loc[("vtool_r1", "15"), "dev accuracy"] == "20.0"
    assert shown.loc[("iapo", "30"), "dev right calls"] == "30.0"
    assert set(shown.loc["iapo"]["to 50%"]) == {"10 0"}


def test_a_step_without_rollouts_raises_no_flag(results: Results) -> None:
    assert method_flags(results) == {}
