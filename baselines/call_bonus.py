"""Call bonus: the outcome, plus a bonus for any call that was carried out.

What a reward for calling at all achieves: IAPO with a bounded penalty for missing calls must beat it.
"""

from baselines.vtool_r1 import outcome
from iapo.config import Config
from iapo.methods import Method, RewardTerm


def outcome_and_bonus(config: Config) -> list[RewardTerm]:
    """The outcome and 1 times the weight for a call that was carried out."""
    from iapo.tool_rewards import executed_call_bonus

    return [*outcome(config), RewardTerm(executed_call_bonus, weight=config.rewards.executed_call)]


METHOD = Method(
    name="call_bonus",
    summary="outcome reward + a bonus for any executed call",
    rewards=outcome_and_bonus,
    weight="rewards.executed_call",
)
