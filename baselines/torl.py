"""ToRL (arXiv 2503.23383): the outcome, minus a penalty where the tool call fails."""

from baselines.vtool_r1 import outcome
from iapo.config import Config
from iapo.methods import Method, RewardTerm


def outcome_and_failures(config: Config) -> list[RewardTerm]:
    """The outcome and -1 times the weight for a call that does not parse, validate or execute."""
    from iapo.tool_rewards import failed_call_penalty

    return [*outcome(config), RewardTerm(failed_call_penalty, weight=config.rewards.failed_call)]


METHOD = Method(
    name="torl",
    summary="outcome reward − penalty for a failed call (arXiv 2503.23383)",
    rewards=outcome_and_failures,
    weight="rewards.failed_call",
)
