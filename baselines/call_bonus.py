"""Call bonus: the outcome, plus a bonus for any call that was carried out.

What a reward for calling at all achieves: IAPO with a bounded penalty for missing calls must beat it.
"""

from baselines.vtool_r1 import outcome
from iapo.config.method_registry import Method, RewardTerm
from iapo.rewards.tool_use import executed_call_bonus

METHOD = Method(
    name="call_bonus",
    summary="outcome reward + a bonus for any executed call",
    rewards=lambda config: [*outcome(config), RewardTerm(executed_call_bonus, weight=config.rewards.executed_call)],
    weight="rewards.executed_call",
)
