"""Controls: methods that cannot help by what the teacher knows, only by what any such reward does.

A method that beats the outcome alone by no more than these has shown nothing about the teacher.
"""

from baselines.iapo_alignment import outcome_and_alignment
from baselines.vtool_r1 import outcome
from iapo.methods import Method, RewardFunction, RewardTerm
from iapo.tool_rewards import constant_penalty, wrong_call_penalty

WEIGHT = "alignment.weight"
"""Controls weigh as much as the method that they control."""


def _control(name: str, summary: str, settings: dict[str, dict[str, str]]) -> Method:
    return Method(
        name, summary, outcome_and_alignment, uses_teacher=True, settings=settings, weight=WEIGHT, tuned_as="iapo"
    )


def _penalty_control(name: str, summary: str, penalty: RewardFunction) -> Method:
    return Method(
        name,
        summary,
        lambda config: [*outcome(config), RewardTerm(penalty, weight=config.alignment.weight)],
        weight=WEIGHT,
        tuned_as="iapo",
    )


CONTROLS = (
    _control("iapo_shuffled", "the teacher's row of another prompt", {"alignment": {"teacher": "shuffled"}}),
    _control("iapo_uniform", "equal shares in the teacher's place", {"alignment": {"teacher": "uniform"}}),
    _control("iapo_self", "the student's own shares: penalty 0", {"alignment": {"teacher": "self"}}),
    _control("attention_share", "attention shares instead of attributions", {"attribution": {"method": "attention"}}),
    _penalty_control(
        "planted_penalty",
        "1 for no call or one on the wrong label: what a perfect penalty would do",
        wrong_call_penalty,
    ),
    _penalty_control(
        "constant_penalty",
        "one constant per prompt: what a penalty without differences does",
        constant_penalty,
    ),
)
