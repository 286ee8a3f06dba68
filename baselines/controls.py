"""Controls of IAPO: its own reward with the teacher's knowledge taken out.

A method that beats the outcome alone by no more than these has shown nothing about the teacher.
"""

from baselines.iapo_alignment import METHOD as IAPO
from baselines.iapo_alignment import TRAINER, outcome_and_alignment
from iapo.config.method_registry import Method


def _control(name: str, summary: str, settings: dict[str, dict[str, str]]) -> Method:
    return Method(
        name,
        summary,
        outcome_and_alignment,
        trainer=TRAINER,
        uses_teacher=True,
        settings=settings,
        weight=IAPO.weight,
        tuned_as=IAPO.name,
    )


CONTROLS = (
    _control("iapo_shuffled", "the teacher's rows permuted over the calls", {"alignment": {"teacher": "shuffled"}}),
    _control("iapo_uniform", "equal shares in the teacher's place", {"alignment": {"teacher": "uniform"}}),
    _control("iapo_self", "the student's own shares: penalty 0", {"alignment": {"teacher": "self"}}),
    _control("attention_share", "attention shares instead of attributions", {"attribution": {"method": "attention"}}),
)
"""They weigh as much as the method that they control."""
