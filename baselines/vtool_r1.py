"""VTool-R1 (arXiv 2505.19255): GRPO on whether the final answer is right, and on nothing else."""

from iapo.config import Config
from iapo.methods import Method, RewardTerm


def outcome(config: Config) -> list[RewardTerm]:
    """1 for a right final answer, 0 otherwise."""
    from iapo.rewards import outcome_reward

    return [RewardTerm(outcome_reward, weight=config.train.outcome_weight)]


METHOD = Method(
    name="vtool_r1",
    summary="outcome reward only (arXiv 2505.19255)",
    rewards=outcome,
)
