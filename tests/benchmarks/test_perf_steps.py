"""Timed steps are steps alone, whatever the profile does along the way."""

from pathlib import Path
from typing import Any

import pytest

from baselines import METHODS
from benchmarks.perf import steps
from iapo.config.schema import Config, TrainConfig


def test_timed_steps_ask_no_dev_questions_and_keep_no_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    trained: list[TrainConfig] = []

    def train(method: Any, config: Config, *_: Any, **__: Any) -> list[dict[str, float]]:
        trained.append(config.train)
        parts = ("step", "attribution", "generation", "loss")
        return [{"step": i, **{f"seconds/{part}": 1 + i % 2 for part in parts}} for i in range(1, 13)]

    monkeypatch.setattr(steps, "train", train)
    config = Config(profile="test", train=TrainConfig(steps=12, dev_every=4, average_last=2))
    found = steps.step_times(METHODS["iapo"], config, [], start=tmp_path, cache=tmp_path)
    (settings,) = trained
    assert (settings.steps, settings.dev_every, settings.average_last) == (12, 0, 0)
    assert (found["iapo_step"]["median"], found["grpo_step"]["median"]) == (2, 1)
