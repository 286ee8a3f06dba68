"""Controls: methods that cannot help by what the teacher knows, only by what any such reward does.

A method that beats the outcome alone by no more than these has shown nothing about the teacher.
"""

from baselines.iapo_alignment import outcome_and_alignment
from baselines.vtool_r1 import outcome
from iapo.config import Config
from iapo.methods import Method, RewardTerm

WEIGHT = "alignment.weight"
"""Controls weigh as much as the method that they control."""


def _control(name: str, summary: str, settings: dict[str, dict[str, str]]) -> Method:
    return Method(
        name, summary, outcome_and_alignment, uses_teacher=True, settings=settings, weight=WEIGHT, tuned_as="iapo"
    )


def outcome_and_wrong_call(config: Config) -> list[RewardTerm]:
    """The outcome and a penalty that is 1 for a call on other labels than the annotated ones, or none: an oracle."""
    from iapo.tool_rewards import wrong_call_penalty

    return [*outcome(config), RewardTerm(wrong_call_penalty, weight=config.alignment.weight)]


def outcome_and_constant(config: Config) -> list[RewardTerm]:
    """The outcome and a penalty that is the same within every group."""
    from iapo.tool_rewards import constant_penalty

    return [*outcome(config), RewardTerm(constant_penalty, weight=config.alignment.weight)]


CONTROLS = (
    _control("iapo_shuffled", "the teacher's row of another prompt", {"alignment": {"teacher": "shuffled"}}),
    _control("iapo_uniform", "equal shares in the teacher's place", {"alignment": {"teacher": "uniform"}}),
    _control("iapo_self", "the student's own shares: penalty 0", {"alignment": {"teacher": "self"}}),
    _control("attention_share", "attention shares instead of attributions", {"attribution": {"method": "attention"}}),
    Method(
        "planted_penalty",
        "1 for no call or one on the wrong label: what a perfect penalty would do",
        outcome_and_wrong_call,
        weight=WEIGHT,
        tuned_as="iapo",
    ),
    Method(
        "constant_penalty",
        "one constant per prompt: what a penalty without differences does",
        outcome_and_constant,
        weight=WEIGHT,
        tuned_as="iapo",
    ),
)
