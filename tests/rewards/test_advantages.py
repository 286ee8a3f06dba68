"""Where a term of the reward enters: the advantages by hand, what cancels, what sums to 0, what the logs say."""

import math
from typing import Any, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from iapo.config.method import RewardForm
from iapo.rewards.advantages import OUTCOME, TIE_BREAK, AdvantageRule, added_advantage

FORMS: tuple[RewardForm, ...] = get_args(RewardForm)
NAN = math.nan


def rule(form: RewardForm = "reward", weight: float = 0.5, group_size: int = 4, **more: Any) -> AdvantageRule:
    return AdvantageRule((OUTCOME, "penalty"), (1.0, weight), ("reward", form), group_size, **more)


def step(outcomes: list[float], penalties: list[float]) -> Tensor:
    return torch.tensor([outcomes, penalties]).T


MIXED = [1.0, 1.0, 0.0, 0.0]
PENALTIES = [-0.2, -0.4, -0.6, -0.8]


@pytest.mark.parametrize(
    ("form", "outcomes", "weight", "expected"),
    [
        ("reward", MIXED, 0.5, [0, 0, 0, 0]),
        ("advantage", MIXED, 0.5, [0.15, 0.05, -0.05, -0.15]),
        ("advantage", [0.0] * 4, 0.5, [0.15, 0.05, -0.05, -0.15]),
        ("varied", MIXED, 0.5, [0.15, 0.05, -0.05, -0.15]),
        ("varied", [0.0] * 4, 0.5, [0, 0, 0, 0]),
        ("flat", MIXED, 0.5, [0, 0, 0, 0]),
        ("flat", [1.0] * 4, 0.5, [0.15, 0.05, -0.05, -0.15]),
        ("flat", [0.0] * 4, 10.0, [1, 1 / 3, -1 / 3, -1]),
        ("right", MIXED, 0.5, [0.05, -0.05, 0, 0]),
        ("right", [1.0] * 4, 0.5, [0.15, 0.05, -0.05, -0.15]),
        ("right", [1.0, 0.0, 0.0, 0.0], 0.5, [0, 0, 0, 0]),
        ("right", [0.0] * 4, 0.5, [0, 0, 0, 0]),
        ("right", [0.5, 0.5, 1.0, 1.0], 0.5, [0, 0, 0.05, -0.05]),
    ],
)
def test_what_each_form_adds(form: RewardForm, outcomes: list[float], weight: float, expected: list[float]) -> None:
    found = rule(form, weight).added(step(outcomes, PENALTIES))
    assert found.tolist() == pytest.approx(expected, abs=1e-6)


def test_a_rollout_that_the_term_does_not_apply_to_is_left_out() -> None:
    found = rule("right").added(step([1.0, 1.0, 1.0, 0.0], [-0.2, -0.4, NAN, -0.8]))
    assert found.tolist() == pytest.approx([0.05, -0.05, 0, 0], abs=1e-6)
    assert rule("advantage").added(step(MIXED, [NAN] * 4)).tolist() == [0] * 4


SCALES: list[dict[str, Any]] = [
    {"scale": "group"},
    {"scale": "batch"},
    {"scale": "none"},
    {"aggregation": "normalize_then_sum"},
]


@pytest.mark.parametrize("more", SCALES)
@pytest.mark.parametrize("form", FORMS)
def test_a_penalty_that_is_constant_in_a_group_changes_nothing(form: RewardForm, more: dict[str, Any]) -> None:
    outcomes = [*MIXED, *[0.0] * 4, *[1.0] * 4]
    constant = step(outcomes, [-0.3] * 4 + [-0.7] * 4 + [-0.1] * 4)
    none = step(outcomes, [0.0] * 12)
    with_it, without = (rule(form, **more).contributions(each).sum(1) for each in (constant, none))
    if form == "reward" and more.get("scale") == "batch":
        # TRL's standard deviation over the step is of rewards that are not centred: only the size of the step changes.
        factor = (with_it.norm() / without.norm()).item()
        assert factor != pytest.approx(1)
        without = without * factor
    torch.testing.assert_close(with_it, without, atol=1e-6, rtol=1e-6)
    assert rule(form, **more).metrics(constant)["advantage/penalty_share"] == pytest.approx(0, abs=1e-6)


def flat_group(form: RewardForm, weight: float) -> Tensor:
    return rule(form, weight).contributions(step([0.0] * 4, PENALTIES)).sum(1)


def test_lambda_cancels_in_flat_groups_in_the_reward_and_not_in_the_advantage() -> None:
    torch.testing.assert_close(flat_group("reward", 0.5), flat_group("reward", 0.25), rtol=2e-3, atol=0)
    assert flat_group("reward", 0.25).std().item() == pytest.approx(1, abs=5e-3)
    for form in ("advantage", "flat"):
        torch.testing.assert_close(flat_group(form, 0.5), 2 * flat_group(form, 0.25))
        assert flat_group(form, 0.25).std().item() == pytest.approx(0.25 * torch.tensor(PENALTIES).std().item())


VALUES = st.one_of(st.floats(-3, 0, width=32), st.just(NAN))


@given(st.lists(st.tuples(st.sampled_from([0.0, 1.0]), VALUES), min_size=4, max_size=4), st.floats(0, 9))
def test_what_is_added_sums_to_zero_in_a_group(rollouts: list[tuple[float, float]], weight: float) -> None:
    outcomes, penalties = (torch.tensor([list(each)], dtype=torch.float64) for each in zip(*rollouts, strict=True))
    for form in FORMS:
        added = added_advantage(penalties, outcomes, weight, form)
        assert added.isfinite().all() and added.sum().item() == pytest.approx(0, abs=1e-9)
        assert form != "flat" or added.abs().max() <= TIE_BREAK + 1e-9


def test_the_rule_gives_trl_the_weights_of_the_reward_alone() -> None:
    assert rule("reward").trl_weights == (1.0, 0.5) and not rule("reward").adds
    assert rule("flat").trl_weights == (1.0, 0.0) and rule("flat").adds
    assert rule("flat").total_rewards(step([1.0, 0.0], [-0.5, NAN])).tolist() == [0.75, 0]


def test_a_form_that_looks_at_the_outcome_needs_one() -> None:
    with pytest.raises(ValueError, match=r"penalty: found a form .* expected outcome_reward among them"):
        AdvantageRule(("penalty",), (1.0,), ("flat",), 4)
    assert AdvantageRule(("penalty",), (1.0,), ("advantage",), 4).adds


def test_shares_of_the_advantage() -> None:
    rewards = torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, -0.5], [1.0, 0.0]])
    found = rule(weight=1.0, group_size=2).metrics(rewards)
    assert found["advantage/outcome_reward_share"] == pytest.approx(0.5, abs=1e-3)
    assert found["advantage/penalty_share"] == pytest.approx(0.5, abs=1e-3)
    assert found["advantage/penalty_alone"] == 0.5 and found["advantage/flat_groups"] == 0
    assert found["advantage/flat_outcomes"] == 0.5
    assert found["advantage/outcome_reward_std"] == pytest.approx(0.5 / math.sqrt(2))
    nothing = rule(weight=1.0, group_size=2).metrics(torch.zeros(4, 2))
    assert nothing["advantage/flat_groups"] == 1 and nothing["advantage/outcome_reward_share"] == 0


def test_the_shares_are_of_the_advantage_and_not_of_the_reward() -> None:
    """One varied and three flat groups: a small penalty is 3/4 if scaled per group, else almost 0."""
    rewards = step([*MIXED, *[0.0] * 12], [*[-0.03] * 4, *[-0.01, -0.02, -0.03, -0.04] * 3])
    share = "advantage/penalty_share"
    assert rule(scale="group").metrics(rewards)[share] == pytest.approx(0.75, abs=0.02)
    assert rule(scale="batch").metrics(rewards)[share] == pytest.approx(3 * 1.25e-4 / (1 + 3 * 1.25e-4), rel=1e-3)
    added = 3 * 4 * 1.25e-4 * 0.25
    assert rule("advantage").metrics(rewards)[share] == pytest.approx(added / (3 + added), rel=2e-3)
    varied = rule("varied").metrics(rewards)
    assert varied[share] == 0 and varied["advantage/penalty_alone"] == 0 and varied["advantage/flat_groups"] == 0.75
    flat = rule("flat").metrics(rewards)
    assert flat["advantage/penalty_alone"] == 0.75 and flat["advantage/flat_groups"] == 0
    assert all(found["advantage/flat_outcomes"] == 0.75 for found in (varied, flat))
