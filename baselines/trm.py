"""TRM: the outcome, plus a verifier's verdict on the tool use (as compared with in arXiv 2606.11652)."""

from baselines.vtool_r1 import outcome
from iapo.methods import Method, RewardTerm
from iapo.tool_rewards import verdict_reward

METHOD = Method(
    name="trm",
    summary="outcome reward + a verifier's verdict on the tool use",
    rewards=lambda config: [*outcome(config), RewardTerm(verdict_reward, weight=config.rewards.verdict)],
    uses_verifier=True,
    weight="rewards.verdict",
)
