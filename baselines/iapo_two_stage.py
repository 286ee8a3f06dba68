"""IAPO after a stage on the outcome alone, within one run: the paper trains its student in two stages.

Steps, optimizer and prompts are those of every other method; only when the penalty begins to count differs.
"""

from dataclasses import replace

from baselines.iapo_alignment import METHOD as IAPO
from baselines.iapo_alignment import outcome_and_alignment
from iapo.config.method_registry import Method, RewardTerm
from iapo.config.schema import Config
from iapo.rewards.stages import counted_from


def _outcome_then_alignment(config: Config) -> list[RewardTerm]:
    """The outcome from the start, and IAPO's penalty from step ``alignment.from_step`` on."""
    first, *penalties = outcome_and_alignment(config)
    first_step = config.alignment.from_step
    return [first, *(replace(term, function=counted_from(term.function, first_step)) for term in penalties)]


METHOD = Method(
    name="iapo_two_stage",
    summary="outcome alone, then minus lambda × attribution penalty (arXiv 2606.11652, its two stages)",
    rewards=_outcome_then_alignment,
    trainer="iapo.training.attribution_mixin:TwoStageTrainer",
    uses_teacher=True,
    weight=IAPO.weight,
    tuned_as=IAPO.name,
)
