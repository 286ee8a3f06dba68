"""IAPO (arXiv 2606.11652): outcome − lambda × divergence from the cached teacher's block attribution."""

from baselines.vtool_r1 import outcome
from iapo.config import Config
from iapo.methods import Method, RewardTerm, with_settings


def outcome_and_alignment(config: Config) -> list[RewardTerm]:
    """The outcome and the negated penalty, weighted by lambda."""
    from iapo.rewards import alignment_reward

    alignment = with_settings(alignment_reward, config=config.alignment)
    return [*outcome(config), RewardTerm(alignment, weight=config.alignment.weight)]


METHOD = Method(
    name="iapo",
    summary="outcome reward − lambda × attribution penalty (arXiv 2606.11652)",
    rewards=outcome_and_alignment,
    uses_teacher=True,
    weight="alignment.weight",
)
