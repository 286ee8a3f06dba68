"""The rewards in each case that a group of rollouts can hold."""

import doctest
import math
from types import ModuleType
from typing import Any, Literal

import pytest

import iapo.rewards.alignment
import iapo.rewards.outcome
from iapo.config.schema import AlignmentConfig
from iapo.rewards.alignment import alignment_reward
from iapo.rewards.outcome import outcome_reward

P, R = [1.0, 0, 0, 0], [0, -2.0, 0, 0]
"""As far apart as block sums can be."""

Sums = list[list[float] | None]
MissingCall = Literal["group_mean", "bound"]


def said(content: Any, **more: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": "?"}, {"role": "assistant", "content": content, **more}]


RIGHT = "FINAL ANSWER: 67"
CALL = [{"type": "function", "function": {"name": "focus_on_rows_with_mask", "arguments": {}}}]


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        (said(RIGHT), 1.0),
        (said("FINAL ANSWER: 68"), 0.0),
        (said("67"), 0.0),
        (said(""), 0.0),
        (said(None), 0.0),
        (said([{"type": "text", "text": "FINAL "}, {"type": "text", "text": "ANSWER: 67"}]), 1.0),
        (said([{"type": "image"}, {"type": "text", "text": RIGHT}]), 1.0),
        (said([]), 0.0),
        (said(RIGHT, tool_calls=CALL), 0.0),
        (said(RIGHT, tool_calls=[]), 1.0),
        ([*said("", tool_calls=CALL), {"role": "tool", "content": RIGHT}], 0.0),
        ([*said("", tool_calls=CALL), {"role": "tool", "content": "."}, *said(RIGHT)[1:]], 1.0),
        ([*said(RIGHT), *said("no idea")[1:]], 0.0),
        ([], 0.0),
    ],
)
def test_only_the_closing_answer_counts(messages: list[dict[str, Any]], expected: float) -> None:
    assert outcome_reward([messages], ["67"], ["exact"]) == [expected]


def test_each_rollout_is_scored_by_its_own_metric() -> None:
    completions = [said("FINAL ANSWER: 66"), said("FINAL ANSWER: 66"), said("FINAL ANSWER: true")]
    assert outcome_reward(completions, ["67", "67", "1"], ["exact", "relaxed", "fact"], prompts=[], seed=0) == [0, 1, 1]


@pytest.mark.parametrize(
    ("student", "teacher", "missing", "expected"),
    [
        pytest.param([P, R], [P, P], "group_mean", [0, 1], id="nobody missing"),
        pytest.param([P, P], [P, [-9.0, 0, 0, 0]], "group_mean", [0, 0], id="magnitudes only"),
        pytest.param([P, R, None], [P, P, None], "group_mean", [0, 1, 0.5], id="missing: the others' mean"),
        pytest.param([P, R, None], [P, P, P], "group_mean", [0, 1, 0.5], id="missing, row known"),
        pytest.param([P, R, None], [P, P, None], "bound", [0, 1, 1], id="missing: the bound"),
        pytest.param([None, None], [P, P], "group_mean", [0, 0], id="nobody called"),
        pytest.param([None, None], [P, P], "bound", [1, 1], id="nobody called, bound"),
        pytest.param([P, R], [None, None], "group_mean", [0, 0], id="not covered"),
        pytest.param([P, None], [None, None], "bound", [0, 0], id="not covered, bound"),
        pytest.param([], [], "group_mean", [], id="nothing"),
    ],
)
def test_the_penalty_in_each_edge_case(
    student: Sums, teacher: Sums, missing: MissingCall, expected: list[float]
) -> None:
    config = AlignmentConfig(missing_call=missing, smoothing=1e-9)
    rewards = alignment_reward([[]] * len(student), student, teacher, ["g"] * len(student), config=config)
    assert rewards == pytest.approx([-penalty for penalty in expected], abs=1e-6)
    assert all(math.copysign(1, reward) == 1 for reward in rewards if reward == 0)


def test_a_missing_call_gets_its_own_group_s_mean() -> None:
    keys = ["a", "b", "a", "b", "c", "c"]
    rewards = alignment_reward([[]] * 6, [P, R, None, None, R, None], [P, P, None, None, None, None], keys)
    assert rewards[0] == rewards[2] == 0
    assert rewards[1] == rewards[3] < -0.9
    assert rewards[4] == rewards[5] == 0


@pytest.mark.parametrize("kind", ["js", "kl_student_teacher", "kl_teacher_student"])
def test_the_reward_is_minus_the_chosen_divergence(kind: Any) -> None:
    config = AlignmentConfig(divergence=kind, smoothing=0.05)
    student, teacher = [0.1, 0.2, -0.3, 0.4], [-0.25, 0.25, 0.3, 0.2]
    p, q = ([(abs(x) + 0.05) / 1.2 for x in sums] for sums in (student, teacher))
    middle = [(a + b) / 2 for a, b in zip(p, q, strict=True)]

    def kl(one: list[float], other: list[float]) -> float:
        return sum(a * math.log(a / b) for a, b in zip(one, other, strict=True))

    expected = {
        "js": (kl(p, middle) + kl(q, middle)) / 2 / math.log(2),
        "kl_student_teacher": kl(p, q),
        "kl_teacher_student": kl(q, p),
    }[kind]
    assert alignment_reward([[]], [student], [teacher], ["a"], config=config) == pytest.approx([-expected], abs=1e-6)


def test_penalty_and_coverage_are_logged() -> None:
    logged: dict[str, float] = {}
    config = AlignmentConfig(smoothing=1e-9)
    student: Sums = [P, R, None, P]
    teacher: Sums = [P, P, None, None]
    alignment_reward(
        [[]] * 4,
        student,
        teacher,
        ["a", "a", "a", "b"],
        config=config,
        log_metric=logged.__setitem__,
        trainer_state=None,
    )
    assert logged == pytest.approx(
        {
            "alignment/penalty": 0.5,
            "alignment/penalty_std": 0.5,
            "alignment/non_finite": 0,
            "alignment/coverage": 2 / 3,
        },
        abs=1e-6,
    )
    logged.clear()
    alignment_reward([[]], [None], [None], ["a"], log_metric=logged.__setitem__)
    assert logged == {"alignment/non_finite": 0, "alignment/coverage": 0}


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        alignment_reward([[]] * 2, [P, P], [P, P], ["a"])


@pytest.mark.parametrize("module", [iapo.rewards.alignment, iapo.rewards.outcome], ids=["alignment", "outcome"])
def test_the_examples_in_the_documentation_hold(module: ModuleType) -> None:
    result = doctest.testmod(module)
    assert result.attempted >= 1 and result.failed == 0
