"""TRM: the outcome, plus a verifier's verdict on the tool use, as arXiv 2606.11652 compares with it.

That paper asks GPT-4o. The name is very likely that of "Empowering LLM Tool Invocation with Tool-call Reward Model"
(ICLR 2026), whose judge is a trained 3B model with one reward a call and advantages by turn. Here the judge is the
trained teacher or any model behind a server; it sees question, call and edited image, and never the gold answer.
"""

from baselines.vtool_r1 import outcome
from iapo.config.method_registry import Method, RewardTerm
from iapo.rewards.tool_use import verdict_reward

METHOD = Method(
    name="trm",
    summary="outcome reward + a verifier's verdict on the tool use, without the gold answer",
    rewards=lambda config: [*outcome(config), RewardTerm(verdict_reward, weight=config.rewards.verdict)],
    trainer="iapo.training.verifier_mixin:VerifierTrainer",
    uses_verifier=True,
    weight="rewards.verdict",
)
