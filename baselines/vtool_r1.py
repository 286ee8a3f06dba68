"""VTool-R1 (arXiv 2505.19255): GRPO on whether the final answer is right, and on nothing else."""

from iapo.config.method_registry import Method, RewardTerm
from iapo.config.schema import Config


def outcome(config: Config) -> list[RewardTerm]:
    """1 for a right final answer, 0 otherwise."""
    from iapo.rewards.outcome import outcome_reward

    return [RewardTerm(outcome_reward, weight=config.train.outcome_weight)]


METHOD = Method(
    name="vtool_r1",
    summary="outcome reward only (arXiv 2505.19255)",
    rewards=outcome,
)
