"""TRM: the outcome, plus a verifier's verdict on the tool use (as compared with in arXiv 2606.11652)."""

from baselines.vtool_r1 import outcome
from iapo.config import Config
from iapo.methods import Method, RewardTerm


def outcome_and_verdict(config: Config) -> list[RewardTerm]:
    """The outcome and the verdict, 0 or 1, times the weight."""
    from iapo.tool_rewards import verdict_reward

    return [*outcome(config), RewardTerm(verdict_reward, weight=config.rewards.verdict)]


METHOD = Method(
    name="trm",
    summary="outcome reward + a verifier's verdict on the tool use",
    rewards=outcome_and_verdict,
    uses_verifier=True,
    weight="rewards.verdict",
)
