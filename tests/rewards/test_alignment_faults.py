"""Penalties that are not finite, and prompts that the teacher's cache lacks: neither is passed over silently."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from iapo.alignment.block_scores import attributed_sums
from iapo.config.schema import AlignmentConfig
from iapo.rewards.alignment import PenaltyError, alignment_reward
from iapo.rollout.turns import PromptInputs, ToolTurn
from iapo.types import BlockAttribution

P, R = [1.0, 0, 0, 0], [0, -2.0, 0, 0]
NAN, INF = math.nan, math.inf

Sums = list[list[float] | None]


def reward(student: Sums, teacher: Sums, keys: str, **settings: Any) -> list[float]:
    config = AlignmentConfig(**{"smoothing": 1e-9} | settings)
    return alignment_reward([[]] * len(student), student, teacher, list(keys), config=config)


def test_the_best_penalty_is_not_for_a_broken_attribution() -> None:
    assert alignment_reward([[], []], [[NAN] * 4, [0, 1, 0, 0]], [[0, 1, 0, 0]] * 2, ["a", "a"]) == [0, 0]


@pytest.mark.parametrize("broken", [[NAN] * 4, [1.0, NAN, 0, 0], [INF, 0, 0, 0], [-INF, INF, 0, 0]], ids=repr)
@pytest.mark.parametrize("side", ["student", "teacher"])
@pytest.mark.parametrize("kind", ["js", "kl_student_teacher", "kl_teacher_student"])
@pytest.mark.parametrize("missing", ["group_mean", "bound"])
def test_a_non_finite_penalty_is_its_group_s_mean(broken: list[float], side: str, kind: str, missing: str) -> None:
    student: Sums = [P, R, P, P]
    teacher: Sums = [P, P, P, P]
    without = reward([P, R], [P, P], "aa", divergence=kind)
    (student if side == "student" else teacher)[2] = broken
    found = reward(student, teacher, "aaab", divergence=kind, missing_call=missing)
    assert found == pytest.approx([*without, sum(without) / 2, 0])


def test_a_divergence_that_is_cut_is_finite_again() -> None:
    """An infinite KL is the largest penalty, not a fault; with a bound it has one."""
    settings = {"divergence": "kl_student_teacher", "smoothing": 1e-300, "max_divergence": 2.0}
    assert reward([P, R], [P, P], "aa", **settings) == pytest.approx([0, -2])


@pytest.mark.parametrize("missing", ["group_mean", "bound"])
def test_a_group_without_a_finite_penalty_has_none(missing: str) -> None:
    student: Sums = [[NAN] * 4, None, P, R, P]
    assert reward(student, [P] * 5, "aabbb", missing_call=missing) == pytest.approx([0, 0, 0, -1, 0], abs=1e-6)


def test_a_standardised_step_stays_finite() -> None:
    found = torch.tensor(reward([P, [NAN] * 4, R, P], [P] * 4, "aaaa", normalise="batch"))
    assert found.isfinite().all() and found.mean().item() == pytest.approx(0, abs=1e-6)
    assert found[2] < found[1] < found[0]


@pytest.mark.parametrize(
    ("student", "teacher", "said"),
    [
        (
            [[NAN] * 4],
            [P],
            r"found 1 of the step's 1 .* not finite \(rollouts 0\).*student's block sums",
        ),
        ([[NAN] * 4, [INF] * 4, P], [P] * 3, r"found 2 of the step's 3 .*\(rollouts 0, 1\), expected at most 50%"),
        ([P, P], [[NAN] * 4] * 2, r"The teacher's block sums in the cache .* build the cache again"),
    ],
)
def test_too_many_end_the_run(student: Sums, teacher: Sums, said: str) -> None:
    with pytest.raises(PenaltyError, match=said) as error:
        reward(student, teacher, "a" * len(student))
    assert error.value.rows and "\n" not in str(error.value)


def test_non_finite_penalties_are_counted_and_said(caplog: pytest.LogCaptureFixture) -> None:
    logged: dict[str, float] = {}
    config = AlignmentConfig(smoothing=1e-9)
    student: Sums = [P, R, [NAN] * 4, None]
    alignment_reward([[]] * 4, student, [P] * 4, ["a"] * 4, config=config, log_metric=logged.__setitem__)
    assert logged["alignment/non_finite"] == pytest.approx(1 / 3) and logged["alignment/penalty"] == pytest.approx(0.5)
    (message,) = caplog.messages
    assert "found 1 of the step's 3" in message and "(rollouts 2)" in message and "[nan, nan, nan, nan]" in message


def test_a_call_is_not_contrasted_with_a_broken_one() -> None:
    prompt = PromptInputs([1] * 4, {}, [0, 1, 2, 3])
    signed = torch.tensor([[4.0, 1, 1, 1], [2.0, 1, 1, 1], [NAN, 9, 9, 9]])
    nothing = torch.zeros(3)
    result = BlockAttribution(signed=signed, l1=signed, convergence_delta=nothing, delta_f=nothing, log_p=nothing)
    turns = [ToolTurn(prompt, [1], "") for _ in range(3)]
    found = attributed_sums(turns, result, AlignmentConfig(contrastive=True))
    assert found[:2] == [[2, 0, 0, 0], [-2, 0, 0, 0]] and math.isnan(found[2][0])


def missing(student: Sums, teacher: Sums, **more: Any) -> None:
    alignment_reward([[]] * len(student), student, teacher, [f"key{i}" for i in range(len(student))], **more)


def test_prompts_that_the_cache_lacks_are_said_once_a_trainer(caplog: pytest.LogCaptureFixture) -> None:
    one, other = SimpleNamespace(), SimpleNamespace()
    missing([P, P, None], [P, P, None], trainer_state=one)
    assert caplog.messages == []
    for _ in range(3):
        missing([P, P, P, None], [None, P, None, None], trainer_state=one)
    (message,) = caplog.messages
    assert "2 of this step's 3 calls (67 %, such as prompt key0)" in message and "build the cache" in message
    assert caplog.records[0].levelname == "WARNING"
    missing([P], [None], trainer_state=other)
    assert len(caplog.messages) == 2


def test_a_prompt_on_which_the_teacher_made_no_valid_call_is_no_fault_of_the_cache(
    caplog: pytest.LogCaptureFixture,
) -> None:
    missing([P, P], [None, P], cache_hit=["no_teacher_call", "exact"])
    assert caplog.messages == []
    missing([P, P], [None, None], cache_hit=["no_teacher_call", "missing"])
    assert "1 of this step's 2 calls (50 %, such as prompt key1)" in caplog.messages[0]


def test_without_a_trainer_every_call_is_told_of_missing_prompts(caplog: pytest.LogCaptureFixture) -> None:
    missing([P], [None])
    missing([P], [None])
    assert len(caplog.messages) == 2
