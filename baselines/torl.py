"""ToRL (arXiv 2503.23383): the outcome, minus a penalty where the tool call fails.

Its rewards are ±1 and its penalty is .5, so .25 beside our outcome of 0 or 1; its default runs leave the penalty out,
and its ablation finds that it does not help. Paper and code differ over a rollout without a call, so both are methods.
"""

from baselines.vtool_r1 import outcome
from iapo.config.method_registry import Method, RewardTerm
from iapo.rewards.tool_use import failed_call_penalty, unexecuted_call_penalty

METHOD = Method(
    name="torl",
    summary="outcome reward − penalty for a failed call (arXiv 2503.23383, its text)",
    rewards=lambda config: [*outcome(config), RewardTerm(failed_call_penalty, weight=config.rewards.failed_call)],
    weight="rewards.failed_call",
)
MISSING_FAILS = Method(
    name="torl_missing_fails",
    summary="outcome reward − penalty for a failed call and for none (arXiv 2503.23383, its code)",
    rewards=lambda config: [*outcome(config), RewardTerm(unexecuted_call_penalty, weight=config.rewards.failed_call)],
    weight="rewards.failed_call",
)
