"""ToRL (arXiv 2503.23383): the outcome, minus a penalty where the tool call fails."""

from baselines.vtool_r1 import outcome
from iapo.config.method_registry import Method, RewardTerm
from iapo.rewards.tool_use import failed_call_penalty

METHOD = Method(
    name="torl",
    summary="outcome reward − penalty for a failed call (arXiv 2503.23383)",
    rewards=lambda config: [*outcome(config), RewardTerm(failed_call_penalty, weight=config.rewards.failed_call)],
    weight="rewards.failed_call",
)
