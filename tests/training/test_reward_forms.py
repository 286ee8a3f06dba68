"""The forms of the reward in TRL's own arithmetic: advantages that reach the loss, the logged rewards, the methods."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from baselines import METHODS
from iapo.config.method import RewardForm
from iapo.config.method_registry import Method, RewardTerm
from iapo.config.schema import AlignmentConfig, Config, ConfigError, TrainConfig, load_config
from iapo.models.loading import save_model
from iapo.training.checkpoints import metrics_file
from iapo.training.run import train
from iapo.training.trainer import FigureTrainer
from iapo.types import Example

OUTCOMES = [1.0, 0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0]
PENALTIES = [-0.2, -0.4, -0.4, None, -0.2, -0.4, -0.6, -0.8]


def outcome_reward(completions: list[Any], **_: Any) -> list[float]:
    return OUTCOMES[: len(completions)]


def penalty(completions: list[Any], **_: Any) -> list[float | None]:
    return PENALTIES[: len(completions)]


def run(
    form: RewardForm,
    tiny: tuple[Any, Any],
    examples: list[Example],
    folder: Path,
    patch: pytest.MonkeyPatch,
    **more: Any,
) -> tuple[FigureTrainer, Tensor, dict[str, float]]:
    """Train one step on two groups with known rewards, and return the trainer, the advantages and the metrics."""
    seen: list[tuple[FigureTrainer, Tensor]] = []
    original = FigureTrainer._generate_and_score_completions

    def scored(self: FigureTrainer, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output = original(self, inputs)
        seen.append((self, output["advantages"].double()))
        return output

    patch.setattr(FigureTrainer, "_generate_and_score_completions", scored)
    save_model(*tiny, folder / "start")
    method = Method("m", "for tests", lambda config: [RewardTerm(outcome_reward, 1.0), RewardTerm(penalty, 0.5, form)])
    settings = TrainConfig(steps=1, groups_per_step=2, group_size=4, prompts_per_set=1, **more)
    train(
        method, Config(profile="test", train=settings), examples, start=folder / "start", run_dir=folder / "work",
        output=folder / "out", seed=0,
    )  # fmt: skip
    (row,) = metrics_file(folder / "work").rows()
    return *seen[0], row


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("form", "more"),
    [
        ("reward", {"scale_rewards": "batch"}),
        ("reward", {"reward_aggregation": "normalize_then_sum"}),
        ("right", {}),
    ],
)
def test_the_terms_parts_add_up_to_the_advantages_of_the_loss(
    form: RewardForm, more: dict[str, Any], tiny: tuple[Any, Any], test_examples: list[Example], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    trainer, advantages, row = run(form, tiny, test_examples, tmp_path, monkeypatch, **more)
    parts = trainer._advantage_rule.contributions(trainer._rewards)
    torch.testing.assert_close(parts.sum(1), advantages, atol=2e-5, rtol=1e-4)
    if form == "right":
        # The second group's outcomes are equal: TRL gives it 0, and the term ranks it.
        torch.testing.assert_close(advantages[4:], torch.tensor([0.15, 0.05, -0.05, -0.15]).double(), atol=1e-6, rtol=0)
    totals = torch.tensor([o + 0.5 * (p or 0) for o, p in zip(OUTCOMES, PENALTIES, strict=True)])
    assert row["reward"] == pytest.approx(totals.mean().item()) and row["reward_std"] == pytest.approx(
        totals.std().item()
    )
    known = [p for p in PENALTIES if p is not None]
    assert row["rewards/penalty/mean"] == pytest.approx(sum(known) / len(known))
    assert row["advantage/outcome_reward_share"] + row["advantage/penalty_share"] == pytest.approx(1)
    assert row["advantage/flat_outcomes"] == 0.5 == row["advantage/penalty_alone"]


@pytest.mark.parametrize("name", ["iapo", "iapo_shuffled", "planted_penalty", "constant_penalty"])
def test_the_penalty_and_its_controls_enter_in_the_same_form(name: str) -> None:
    config = Config(profile="t", alignment=AlignmentConfig(form="flat"))
    outcome, term = METHODS[name].rewards(config)
    assert (outcome.form, term.form, term.weight) == ("reward", "flat", config.alignment.weight)
    read = METHODS[name].settings_read
    assert "alignment" in read or {"alignment.form", "alignment.weight"} <= set(read)


def test_combinations_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"alignment\.teacher: found shuffled with reference teacher_call"):
        load_config({"profile": "t", "alignment": {"teacher": "shuffled", "reference": "teacher_call"}})
    for run_settings in ({"train": {}}, {"teacher": {"train": {}}}):
        settings: Any = {"reward_aggregation": "normalize_then_sum", "scale_rewards": "batch"}
        section = next(iter(run_settings))
        raw = {section: settings if section == "train" else {"train": settings}}
        with pytest.raises(ConfigError, match=r"train\.scale_rewards: found batch with normalize_then_sum"):
            load_config({"profile": "t", **raw})
    assert replace(TrainConfig(), reward_aggregation="normalize_then_sum").scale_rewards == "group"
