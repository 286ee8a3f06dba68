"""Penalties whose worth is known beforehand: one that knows the right call, and one that says nothing.

They show what the best and the emptiest penalty of IAPO's weight would do; neither asks a teacher.
"""

from baselines.vtool_r1 import outcome
from iapo.config.method_registry import Method, RewardFunction, RewardTerm
from iapo.rewards.tool_use import constant_penalty, wrong_call_penalty


def _penalty(name: str, summary: str, penalty: RewardFunction) -> Method:
    return Method(
        name,
        summary,
        lambda config: [
            *outcome(config),
            RewardTerm(penalty, weight=config.alignment.weight, form=config.alignment.form),
        ],
        reads=("alignment.form",),
        weight="alignment.weight",
        tuned_as="iapo",
    )


REFERENCE_PENALTIES = (
    _penalty(
        "planted_penalty",
        "1 for no call or a malformed one, 1/2 for one that is not right: what a perfect penalty would do",
        wrong_call_penalty,
    ),
    _penalty(
        "constant_penalty",
        "one constant per prompt: what a penalty without differences does",
        constant_penalty,
    ),
)
"""They weigh as much as IAPO's penalty and enter in the same form."""
