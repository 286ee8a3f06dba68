"""TRM: the outcome, plus a verifier's verdict on the tool use (as compared with in arXiv 2606.11652)."""

from baselines.vtool_r1 import outcome
from iapo.config.method_registry import Method, RewardTerm
from iapo.rewards.tool_use import verdict_reward

METHOD = Method(
    name="trm",
    summary="outcome reward + a verifier's verdict on the tool use",
    rewards=lambda config: [*outcome(config), RewardTerm(verdict_reward, weight=config.rewards.verdict)],
    trainer="iapo.training.verifier_mixin:VerifierTrainer",
    uses_verifier=True,
    weight="rewards.verdict",
)
