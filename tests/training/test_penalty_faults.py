"""Penalties that are not finite, in TRL's own arithmetic of rewards and advantages, and how a run ends by them."""

import json
import logging
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import Tensor

from baselines import METHODS
from iapo.config.schema import AlignmentConfig, Config, TrainConfig
from iapo.models.loading import save_model
from iapo.teacher.writer import CacheWriter
from iapo.training.attribution_mixin import AlignmentTrainer, AttributionMixin
from iapo.training.checkpoints import metrics_file
from iapo.training.guards import RolloutFault
from iapo.training.run import train
from iapo.training.trainer import Sources
from iapo.types import Example

P, R, BROKEN = [1.0, 0, 0, 0], [0, 1.0, 0, 0], [math.nan] * 4
SHORT = TrainConfig(steps=1, groups_per_step=2, group_size=4, prompts_per_set=1)

Train = Callable[..., tuple[list[Tensor], list[dict[str, float]]]]


@pytest.fixture
def trained(
    tiny: tuple[Any, Any], test_examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Train:
    """``trained(student, teacher)``: the advantages and metrics of a run whose groups have these block sums."""
    save_model(*tiny, tmp_path / "start")
    CacheWriter(tmp_path / "cache", "empty")

    def run(
        student: list[Any], teacher: list[Any], *, steps: int = 1, **alignment: Any
    ) -> tuple[list[Tensor], list[dict[str, float]]]:
        advantages: list[Tensor] = []
        original = AlignmentTrainer._generate_and_score_completions

        def attribute(self: AlignmentTrainer, inputs: list[Any]) -> None:
            for i, row in enumerate(inputs):
                row["prompt_key"] = row["example_id"]
                row["student_block_sums"], row["teacher_block_sums"] = student[i % 4], teacher[i % 4]

        def scored(self: AlignmentTrainer, inputs: list[dict[str, Any]]) -> dict[str, Any]:
            output = original(self, inputs)
            advantages.append(output["advantages"])
            return output

        with monkeypatch.context() as patch:
            patch.setattr(AlignmentTrainer, "_attribute", attribute)
            patch.setattr(AlignmentTrainer, "_generate_and_score_completions", scored)
            config = Config(
                profile="test",
                train=replace(SHORT, steps=steps),
                alignment=AlignmentConfig(smoothing=1e-9, **alignment),
            )
            train(
                METHODS["iapo"], config, test_examples, start=tmp_path / "start", seed=0,
                sources=Sources(cache=tmp_path / "cache"), run_dir=tmp_path / "work", output=tmp_path / "out",
            )  # fmt: skip
        return advantages, metrics_file(tmp_path / "work").rows()

    return run


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("normalise", ["none", "batch"])
def test_a_broken_attribution_has_no_advantage(trained: Train, normalise: str) -> None:
    (advantages,), (row,) = trained([P, BROKEN, R, P], [P] * 4, normalise=normalise)
    right, broken, wrong, _ = advantages[:4].tolist()
    assert advantages.isfinite().all()
    assert right > 0 > wrong and abs(broken) < right
    assert row["alignment/non_finite"] == 0.25 and math.isfinite(row["reward"])


@pytest.mark.filterwarnings("ignore")
def test_a_run_ends_where_most_penalties_are_broken(trained: Train, tmp_path: Path) -> None:
    with pytest.raises(RolloutFault, match=r"found 6 of the step's 8 alignment penalties not finite.*learning rate"):
        trained([BROKEN, BROKEN, R, BROKEN], [P] * 4)
    fault = json.loads((tmp_path / "work/checkpoints/fault.json").read_text())
    assert fault["rows"] == [0, 1, 3, 4, 5, 7] and len(fault["examples"]) == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore")
def test_a_cache_of_other_prompts_is_said_once_a_run(trained: Train, caplog: pytest.LogCaptureFixture) -> None:
    trained([P, R, None, P], [None] * 4, steps=2)
    said = [record for record in caplog.records if "no row for the prompts of 6 of this step's 6" in record.message]
    assert [record.levelno for record in said] == [logging.WARNING]


def _mixin(**alignment: Any) -> Any:
    state = SimpleNamespace(global_step=3)
    return SimpleNamespace(_alignment=AlignmentConfig(**alignment), _told_of_stand_ins=False, state=state)


def test_calls_that_another_tool_s_row_stands_in_for_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    trainer = _mixin()
    AttributionMixin._warn_of_stand_ins(trainer, {"exact": 4, "same_tool": 1})
    assert caplog.messages == []
    for _ in range(2):
        AttributionMixin._warn_of_stand_ins(trainer, {"exact": 4, "nearest": 1})
    (message,) = caplog.messages
    assert message.startswith("step 3: ") and "1 of 5 calls (20 %)" in message and "fill_cache" in message


@pytest.mark.parametrize("alignment", [{"teacher": "self"}, {"teacher": "uniform"}, {"reference": "teacher_call"}])
def test_what_does_not_compare_calls_lacks_none(alignment: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    AttributionMixin._warn_of_stand_ins(_mixin(**alignment), {"nearest": 5})
    assert caplog.messages == []
