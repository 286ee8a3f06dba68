"""Rows that compare like with like: a stage on the outcome, equal compute, one turn trained, published weights."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from baselines import METHODS
from iapo.config.declared import declare
from iapo.config.method_registry import resolve
from iapo.config.published_weights import changed_weights
from iapo.config.schema import AlignmentConfig, Config, RewardsConfig, TrainConfig, Variant, load_config
from iapo.jobs.estimate import merge_configs
from iapo.rewards.stages import counted_from

ROOT = Path(__file__).parents[2]


def state(step: int) -> Any:
    return SimpleNamespace(global_step=step)


def test_a_reward_counts_from_its_step_on() -> None:
    def length(completions: list[str], factor: list[float], trainer_state: Any, **_: Any) -> list[float]:
        return [f * len(text) for text, f in zip(completions, factor, strict=True)]

    staged = counted_from(length, 3)
    said = [
        staged(prompts=["", ""], completions=["a", "bc"], factor=[1.0, 2.0], trainer_state=state(step))
        for step in range(5)
    ]
    assert said == [[0.0, 0.0]] * 3 + [[1.0, 4.0]] * 2
    assert staged.__name__ == "length"  # type: ignore[attr-defined]


def test_the_two_stage_row_is_the_outcome_alone_and_then_iapo() -> None:
    config = Config(profile="t", alignment=AlignmentConfig(from_step=2, weight=0.7, smoothing=1e-12))
    outcome, penalty = METHODS["iapo_two_stage"].rewards(config)
    _, whole = METHODS["iapo"].rewards(config)
    batch: dict[str, Any] = {
        "completions": [[], []],
        "prompt_key": ["a", "a"],
        "student_block_sums": [[1.0, 0, 0, 0], [1.0, 0, 0, 0]],
        "teacher_block_sums": [[1.0, 0, 0, 0], [0, 1.0, 0, 0]],
    }
    assert outcome.function.__name__ == "outcome_reward" and penalty.weight == whole.weight == 0.7  # type: ignore[attr-defined]
    assert penalty.function(**batch, trainer_state=state(1)) == [0.0, 0.0]
    assert penalty.function(**batch, trainer_state=state(2)) == whole.function(**batch, trainer_state=state(2))
    assert penalty.function(**batch, trainer_state=state(2)) == pytest.approx([0.0, -1.0])


def test_a_variant_may_take_more_steps_of_the_same() -> None:
    longer = {"longer": Variant("vtool_r1", {"train": {"train_turns": "answer"}}, steps_factor=1.28)}
    config = Config(profile="t", variants=longer, train=TrainConfig(steps=60))
    _, resolved = resolve("longer", config, METHODS)
    assert (resolved.train.steps, resolved.train.train_turns) == (77, "answer")
    assert resolve("vtool_r1", config, METHODS)[1].train == config.train


def test_every_method_s_preset_has_rows_of_equal_compute_and_of_the_answer_turn_alone() -> None:
    files = ("config/mini.yaml", "config/presets/every_method.yaml")
    config = load_config(merge_configs([yaml.safe_load((ROOT / name).read_text()) for name in files]))
    assert {"vtool_r1_equal_compute", "vtool_r1_answer"} <= set(config.methods)
    plain = resolve("vtool_r1", config, METHODS)[1].train
    equal = resolve("vtool_r1_equal_compute", config, METHODS)[1].train
    assert 1.27 * plain.steps - 0.5 <= equal.steps <= 1.29 * plain.steps + 0.5
    assert resolve("vtool_r1_answer", config, METHODS)[1].train.train_turns == "answer"


def test_the_annotated_call_alone_is_learned_on_its_own_turn() -> None:
    _, resolved = resolve("exact_match_only", Config(profile="t"), METHODS)
    assert resolved.train.train_turns == "tool" and resolved.train.outcome_weight == 0


def test_a_weight_set_by_hand_is_said_with_the_published_one() -> None:
    assert changed_weights(Config(profile="t")) == []
    (line,) = changed_weights(Config(profile="t", rewards=RewardsConfig(failed_call=0.004)))
    assert line.startswith("rewards.failed_call: 0.004, set by hand; published 0.25 (ToRL")


def test_what_the_distilling_methods_read_of_the_configuration() -> None:
    config = Config(profile="t")
    for name, key in (("teacher_calls", "teacher_calls"), ("teacher_calls_only", "teacher_calls"), ("teacher_kl",) * 2):
        method = METHODS[name]
        assert method.distils == ("policy" if name == "teacher_kl" else "calls")
        assert not method.uses_teacher and not method.uses_verifier
        assert {*declare(config, *method.settings_read)} == {"device", "hardware", "train", f"rewards.{key}"}
