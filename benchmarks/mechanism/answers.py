"""A policy's greedy answers to test questions, and whether its calls name the labels that were asked for."""

from __future__ import annotations

from collections.abc import Sequence

from iapo.models.interfaces import Processor, QwenVL
from iapo.rewards.answers.extraction import extract
from iapo.rewards.answers.matching import score
from iapo.rewards.dev_accuracy import calls_right
from iapo.rollout.two_turn import Rollout, roll_out
from iapo.types import Example

BATCH_SIZE = 120
"""Questions decoded together."""

Record = dict[str, object]
"""One row of the study's records."""


def answer(model: QwenVL, processor: Processor, examples: Sequence[Example], *, turn_tokens: int) -> list[Record]:
    """Roll out the policy greedily on test questions.

    Args:
        model: the policy in eval mode.
        processor: its processor.
        examples: test questions.
        turn_tokens: token limit of a turn.

    Returns:
        One record per question; see :func:`answer_record`.
    """
    records: list[Record] = []
    for start in range(0, len(examples), BATCH_SIZE):
        chunk = examples[start : start + BATCH_SIZE]
        rollouts = roll_out(model, processor, chunk, turn_tokens=turn_tokens)
        records += [answer_record(example, rollout) for example, rollout in zip(chunk, rollouts, strict=True)]
    return records


def answer_record(example: Example, rollout: Rollout) -> Record:
    """Return ``example_id``, ``test_set``, ``cluster`` (the labels asked for), ``score`` of the final answer in [0, 1],
    and ``right_call``: whether the first call names exactly these labels."""
    return {
        "example_id": example.example_id,
        "test_set": example.test_set,
        "cluster": " | ".join(sorted(example.focus_labels)) or example.figure.figure_id,
        "score": score(extract(rollout.texts[-1]), example.answer, example.metric),
        "right_call": calls_right(rollout, example),
    }
