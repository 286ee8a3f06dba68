"""Timed steps are steps alone, whatever the profile does along the way."""

from dataclasses import asdict

import pytest

from benchmarks.perf.steps import timed_settings
from iapo.config.schema import TrainConfig, load_config


@pytest.mark.parametrize(("steps", "timed"), [(3, 8), (96, 96)])
def test_timed_steps_ask_no_dev_questions_and_keep_no_weights(steps: int, timed: int) -> None:
    given = TrainConfig(steps=steps, dev_every=4, average_last=2, temperature=0.7)
    found = load_config({"profile": "x", "train": timed_settings(asdict(given))}).train
    assert (found.steps, found.dev_every, found.average_last, found.temperature) == (timed, 0, 0, 0.7)
