"""Exact match: a reward for the annotated call, with the outcome and alone."""

from baselines.vtool_r1 import outcome
from iapo.config.method_registry import Method, RewardTerm
from iapo.rewards.tool_use import exact_match_reward

METHOD = Method(
    name="exact_match",
    summary="outcome reward + 1 for the annotated call",
    rewards=lambda config: [*outcome(config), RewardTerm(exact_match_reward, weight=config.rewards.exact_match)],
    weight="rewards.exact_match",
)
ALONE = Method(
    name="exact_match_only",
    summary="1 for the annotated call, no outcome reward, the tool turn trained alone",
    rewards=METHOD.rewards,
    # Weight 0 rather than no term: the outcome stays in the log. The answer turn is left out of the loss, since it
    # would be rewarded for whatever it says after a right call.
    settings={"train": {"outcome_weight": 0.0, "train_turns": "tool"}},
    reads=("rewards.exact_match",),
)
