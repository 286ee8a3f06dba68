"""Exact match: a reward for the annotated call, with the outcome and alone."""

from baselines.vtool_r1 import outcome
from iapo.config import Config
from iapo.methods import Method, RewardTerm


def exact_match(config: Config) -> list[RewardTerm]:
    """1 times the weight for a call that names the annotated labels."""
    from iapo.tool_rewards import exact_match_reward

    return [RewardTerm(exact_match_reward, weight=config.rewards.exact_match)]


METHOD = Method(
    name="exact_match",
    summary="outcome reward + 1 for the annotated call",
    rewards=lambda config: [*outcome(config), *exact_match(config)],
    weight="rewards.exact_match",
)
ALONE = Method(
    name="exact_match_only",
    summary="1 for the annotated call, no outcome reward",
    rewards=METHOD.rewards,
    # Weight 0 rather than no term: the outcome stays in the log.
    settings={"train": {"outcome_weight": 0.0}},
)
