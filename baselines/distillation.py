"""Distillation of the teacher's calls: the dense signal that the same teacher gives without any attribution.

IAPO must beat these to show that an attribution says more than the calls themselves.
"""

from baselines.vtool_r1 import outcome
from iapo.config.method_registry import Method

_TRAINERS = "iapo.training.distillation_mixin"

TEACHER_CALLS = Method(
    name="teacher_calls",
    summary="outcome reward; the loss of the teacher's own right calls beside it",
    rewards=outcome,
    trainer=f"{_TRAINERS}:TeacherCallsTrainer",
    distils="calls",
    weight="rewards.teacher_calls",
)
TEACHER_CALLS_ONLY = Method(
    name="teacher_calls_only",
    summary="the loss of the teacher's own right calls, no outcome reward",
    rewards=outcome,
    trainer=TEACHER_CALLS.trainer,
    distils="calls",
    # Its weight scales the whole loss, which AdamW hardly notices, so nothing is tuned.
    reads=("rewards.teacher_calls",),
    settings={"train": {"outcome_weight": 0.0}},
)
TEACHER_KL = Method(
    name="teacher_kl",
    summary="outcome reward; the KL to the teacher on the student's own first turns beside it (arXiv 2306.13649)",
    rewards=outcome,
    trainer=f"{_TRAINERS}:TeacherKLTrainer",
    distils="policy",
    weight="rewards.teacher_kl",
)
DISTILLATION = (TEACHER_CALLS, TEACHER_CALLS_ONLY, TEACHER_KL)
