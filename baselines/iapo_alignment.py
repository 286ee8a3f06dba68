"""IAPO (arXiv 2606.11652): outcome − lambda × divergence from the cached teacher's block attribution."""

from baselines.vtool_r1 import outcome
from iapo.config.method_registry import Method, RewardTerm, with_settings
from iapo.config.schema import Config


def outcome_and_alignment(config: Config) -> list[RewardTerm]:
    """The outcome and the negated penalty, weighted by lambda, in the form that is configured."""
    from iapo.rewards.alignment import alignment_reward

    alignment = with_settings(alignment_reward, config=config.alignment)
    return [*outcome(config), RewardTerm(alignment, weight=config.alignment.weight, form=config.alignment.form)]


TRAINER = "iapo.training.attribution_mixin:AlignmentTrainer"
"""Attributes every call and hands both attributions to the reward; imported when a policy trains."""

METHOD = Method(
    name="iapo",
    summary="outcome reward − lambda × attribution penalty (arXiv 2606.11652)",
    rewards=outcome_and_alignment,
    trainer=TRAINER,
    uses_teacher=True,
    weight="alignment.weight",
)
