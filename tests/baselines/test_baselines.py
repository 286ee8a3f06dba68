"""The baselines' rewards case by case, which turns are trained, and how a weight is chosen."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from baselines import METHODS
from iapo.config.declared import declare, value_of, with_value
from iapo.config.method_registry import Method, RewardTerm, resolve, tuned_method
from iapo.config.schema import Config, RewardsConfig, TrainConfig, TuningConfig, Variant
from iapo.data.prompts import open_image
from iapo.data.store import figure_to_json
from iapo.models.loading import save_model
from iapo.rewards.tool_use import (
    exact_match_reward,
    executed_call_bonus,
    failed_call_penalty,
    unexecuted_call_penalty,
    verdict_reward,
    wrong_call_penalty,
)
from iapo.rollout.environment import ENVIRONMENTS, answer_tool_calls
from iapo.rollout.status import call_status
from iapo.training.run import train
from iapo.training.trainer import FigureTrainer, trained_tokens
from iapo.training.weight_search import DevFigures, Trial, best, run_trials
from iapo.types import CallStatus, Example


def hermes(name: str, arguments: Any) -> str:
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


def rows_call(*labels: Any) -> str:
    return hermes("focus_on_rows_with_mask", {"rows_to_focus_on": list(labels)})


def as_trl_reads(text: str) -> list[dict[str, Any]]:
    """TRL takes any JSON with name and arguments for a call, and anything else for text."""
    found = []
    for block in text.split("<tool_call>")[1:]:
        try:
            value = json.loads(block.split("</tool_call>")[0])
            found.append({"function": {"name": value["name"], "arguments": dict(value["arguments"])}})
        except (ValueError, TypeError, KeyError):
            continue
    return found


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("FINAL ANSWER: 67", "none"),
        ("", "none"),
        ("a tool_call without its tag", "none"),
        ("ROW", "executed"),
        ("I look. ROW", "executed"),
        (rows_call(), "executed"),
        ("<tool_call>{not json}</tool_call>", "malformed"),
        ("<tool_call></tool_call>", "malformed"),
        ("<tool_call>OPEN", "malformed"),
        ("ROW<tool_call>{</tool_call>", "malformed"),
        (hermes("focus_on_everything", {"rows": ["a"]}), "malformed"),
        (hermes("__import__", {"name": "os"}), "malformed"),
        (hermes("focus_on_rows_with_mask", {}), "malformed"),
        (hermes("focus_on_rows_with_mask", {"rows_to_focus_on": "Italy"}), "malformed"),
        (hermes("focus_on_rows_with_mask", {"rows_to_focus_on": [1]}), "malformed"),
        (hermes("focus_on_rows_with_mask", {"columns_to_focus_on": []}), "malformed"),
        (hermes("focus_on_x_values_with_mask", {"x_values_to_focus_on": ["1952"]}), "failed"),
        (rows_call("no such row"), "failed"),
        ("ROW" + rows_call("no such row"), "failed"),
    ],
)
def test_torl_s_penalty_for_each_way_a_call_can_fail(
    text: str, status: CallStatus, test_examples: list[Example]
) -> None:
    example = next(e for e in test_examples if e.figure.kind == "table" and "rows" in e.figure.boxes)
    row = rows_call(next(iter(example.figure.boxes["rows"])))
    turn = text.replace("ROW", row).replace("OPEN", row.removeprefix("<tool_call>").removesuffix("</tool_call>"))
    environment = ENVIRONMENTS["table"]()
    environment.reset(figure=figure_to_json(example.figure), images=[open_image(example)])
    answer_tool_calls(environment, as_trl_reads(turn))
    found = call_status(turn, environment.succeeded)
    assert found == status
    assert failed_call_penalty([[]], [found]) == [-1.0 if status in ("malformed", "failed") else 0.0]
    # The two readings of ToRL differ where nothing is called.
    assert unexecuted_call_penalty([[]], [found]) == [0.0 if status == "executed" else -1.0]
    assert executed_call_bonus([[]], [found]) == [float(status == "executed")]


def called(*labels: str) -> list[dict[str, Any]]:
    function = {"name": "focus_on_rows_with_mask", "arguments": {"rows_to_focus_on": list(labels)}}
    return [{"role": "assistant", "content": "", "tool_calls": [{"function": function}]}]


def test_exact_match_wants_the_annotated_labels_and_a_call_that_ran() -> None:
    completions = [called("a", "b"), called("a"), called("b", "a"), [{"role": "assistant", "content": "a"}], called()]
    status: list[CallStatus] = ["executed", "executed", "failed", "none", "executed"]
    labels = [["b", "a"]] * 4 + [[]]
    # Without an annotation no rollout is right or wrong.
    assert exact_match_reward(completions, labels, status) == [1.0, 0.0, 0.0, 0.0, None]
    assert wrong_call_penalty(completions[:4], labels[:4], status[:4]) == [0.0, -0.5, -0.5, -1.0]


def test_a_missing_verdict_is_no_fault_of_the_rollout() -> None:
    nan = math.nan
    found = verdict_reward([[]] * 6, [1.0, 0.0, nan, nan, 0.0, nan], ["a", "a", "a", "b", "c", "c"])
    assert found == [1.0, 0.0, 0.5, 0.0, 0.0, 0.0]


def test_every_method_names_its_rewards_and_its_weight() -> None:
    config = Config(profile="test", rewards=RewardsConfig(failed_call=0.3, verdict=0.4, executed_call=0.6))
    parts = {
        name: [(term.function.__name__, term.weight) for term in method.rewards(resolve(name, config, METHODS)[1])]
        for name, method in METHODS.items()
    }
    assert parts["torl"] == [("outcome_reward", 1.0), ("failed_call_penalty", 0.3)]
    assert parts["torl_missing_fails"] == [("outcome_reward", 1.0), ("unexecuted_call_penalty", 0.3)]
    assert parts["teacher_calls"] == parts["teacher_kl"] == [("outcome_reward", 1.0)]
    assert parts["teacher_calls_only"] == [("outcome_reward", 0.0)]
    assert parts["iapo_two_stage"] == parts["iapo"] == [("outcome_reward", 1.0), ("alignment_reward", 0.5)]
    assert parts["trm"] == [("outcome_reward", 1.0), ("verdict_reward", 0.4)]
    assert parts["exact_match"] == [("outcome_reward", 1.0), ("exact_match_reward", 1.0)]
    assert parts["exact_match_only"] == [("outcome_reward", 0.0), ("exact_match_reward", 1.0)]
    assert parts["call_bonus"] == [("outcome_reward", 1.0), ("executed_call_bonus", 0.6)]
    assert parts["vtool_r1"] == [("outcome_reward", 1.0)]
    tuned = {name: method for name, method in METHODS.items() if method.weight and not method.tuned_as}
    distilled = {"teacher_calls", "teacher_kl"}
    assert {"torl", "torl_missing_fails", "trm", "exact_match", "call_bonus", "iapo", *distilled} == tuned.keys()
    assert all(value_of(declare(config, str(method.weight)), str(method.weight)) > 0 for method in tuned.values())


def test_a_chosen_weight_reaches_the_method_its_controls_and_its_variants() -> None:
    variants = {
        "finer": Variant("iapo", {"attribution": {"blocks": "labels"}}),
        "heavy": Variant("iapo", {"alignment": {"weight": 3.0}}),
    }
    config = Config(profile="test", variants=variants)
    wanted = {"iapo": "iapo", "iapo_shuffled": "iapo", "finer": "iapo", "heavy": None, "vtool_r1": None}
    assert {name: tuned_method(name, config, METHODS) for name in wanted} == wanted
    assert tuned_method("iapo", replace(config, tuning=TuningConfig(factors=(1.0,))), METHODS) is None

    def trained_with(name: str, weight: float) -> dict[str, Any]:
        """What a training job of this name reads, with the weight where one is chosen for it."""
        method, resolved = resolve(name, config, METHODS)
        settings = declare(resolved, *method.settings_read)
        chosen = tuned_method(name, config, METHODS)
        return with_value(settings, str(method.weight), weight) if chosen else settings

    for name, weight in (("iapo", 2.0), ("iapo_shuffled", 2.0), ("finer", 2.0), ("heavy", 3.0)):
        assert value_of(trained_with(name, 2.0), "alignment.weight") == weight
    assert value_of(trained_with("torl", 0.1), "rewards.failed_call") == 0.1
    assert trained_with("vtool_r1", 0.1) == declare(config, "device", "hardware", "train")


def test_the_most_accurate_trial_wins_and_ties_go_to_the_configured_weight() -> None:
    asked: list[list[str]] = []

    def answer(policies: Sequence[Path]) -> list[DevFigures]:
        asked.append([policy.name for policy in policies])
        return [DevFigures({"0.125": 0.5, "0.5": 0.7, "2.0": 0.7}[policy.name], 1.0, 240) for policy in policies]

    trials = run_trials((0.25, 4.0, 1.0), 0.5, lambda weight: Path(str(weight)), answer)
    assert asked == [["0.125", "2.0", "0.5"]] and [trial.weight for trial in trials] == [0.125, 2.0, 0.5]
    assert best(trials).factor == 1.0
    assert best([Trial(0.25, 0.1, 0.9, 1.0, 100), *trials]).weight == 0.1


def test_the_trained_turns_by_hand() -> None:
    mask = torch.tensor([[1, 1, 0, 0, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1], [1, 0, 0, 0, 0, 0, 1]])
    assert trained_tokens(mask, "tool").tolist() == [[1, 1, 0, 0, 0, 0, 0], [1] * 7, [1, 0, 0, 0, 0, 0, 0]]
    assert trained_tokens(mask, "answer").tolist() == [[0, 0, 0, 0, 1, 1, 1], [1] * 7, [0, 0, 0, 0, 0, 0, 1]]
    assert trained_tokens(mask, "both") is mask


def many_tokens(completion_ids: list[list[int]], **_: Any) -> list[float]:
    return [float(sum(ids)) for ids in completion_ids]


def test_untrained_turns_do_not_reach_the_loss(
    tmp_path: Path, tiny: tuple[Any, Any], test_examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(*tiny, tmp_path / "model")
    seen: dict[str, tuple[torch.Tensor, float]] = {}
    original = FigureTrainer._generate_and_score_completions
    method = Method("many_tokens", "for tests", lambda config: [RewardTerm(many_tokens, weight=1.0)])
    for turns in ("both", "tool", "answer"):

        def with_a_tool_turn(self: FigureTrainer, inputs: Any, turns: str = turns) -> Any:
            # An untrained policy calls no tool, so TRL's own mask gets a tool's answer at the third token.
            with pytest.MonkeyPatch.context() as patch:
                generate = FigureTrainer._generate

                def generated(trainer: FigureTrainer, prompts: Any) -> Any:
                    output = list(generate(trainer, prompts))
                    output[2] = [[int(i != 2) for i in range(len(ids))] for ids in output[1]]
                    return tuple(output)

                patch.setattr(FigureTrainer, "_generate", generated)
                output = original(self, inputs)
            trained = output["tool_mask"] * output["completion_mask"]
            seen[turns] = trained, float(output["num_items_in_batch"])
            return output

        monkeypatch.setattr(FigureTrainer, "_generate_and_score_completions", with_a_tool_turn)
        settings = TrainConfig(steps=1, groups_per_step=2, group_size=2, prompts_per_set=1, train_turns=turns)  # type: ignore[arg-type]
        train(
            method, Config(profile="test", train=settings), test_examples, start=tmp_path / "model",
            run_dir=tmp_path / turns, output=tmp_path / turns / "out", seed=0,
        )  # fmt: skip
    for trained, count in seen.values():
        assert trained.sum() == count
    both, tool, answer = (seen[turns][0] for turns in ("both", "tool", "answer"))
    assert torch.equal(tool + answer, both)
    assert tool[:, :2].all() and not tool[:, 2:].any() and not answer[:, :3].any() and answer.any()
