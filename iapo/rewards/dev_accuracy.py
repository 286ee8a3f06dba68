"""Accuracy of a policy's greedy answers on questions that it is not trained on, measured while it trains."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import torch

from iapo.models.interfaces import Processor, QwenVL
from iapo.rewards.answers.extraction import extract
from iapo.rewards.answers.matching import score
from iapo.rollout.two_turn import Rollout, roll_out
from iapo.types import Example


@dataclass(frozen=True)
class DevAccuracy:
    """Greedy results on the dev questions, each the unweighted mean over the test sets, in [0, 1]."""

    accuracy: float
    """Share of right answers."""
    right_calls: float
    """Share of questions whose first call names exactly the annotated labels."""


def dev_accuracy(
    model: QwenVL, processor: Processor, examples: Sequence[Example], *, batch_size: int, turn_tokens: int
) -> DevAccuracy:
    """Answer questions greedily, and leave the model's mode and torch's random state as they were.

    Args:
        model: the policy, in whatever mode.
        processor: its processor.
        examples: the questions, at least one.
        batch_size: number of questions decoded together.
        turn_tokens: maximum length of a turn, in tokens.
    """
    right: dict[str, list[float]] = defaultdict(list)
    called: dict[str, list[float]] = defaultdict(list)
    training = model.training
    model.eval()
    with torch.random.fork_rng():
        for start in range(0, len(examples), batch_size):
            chunk = examples[start : start + batch_size]
            for example, rollout in zip(chunk, roll_out(model, processor, chunk, turn_tokens=turn_tokens), strict=True):
                answer = extract(rollout.texts[-1])
                right[example.test_set].append(score(answer, example.answer, example.metric))
                called[example.test_set].append(calls_right(rollout, example))
    model.train(training)
    return DevAccuracy(fmean(map(fmean, right.values())), fmean(map(fmean, called.values())))


def calls_right(rollout: Rollout, example: Example) -> bool:
    """Return whether a rollout's calls were carried out and the first names exactly the labels that were asked for."""
    return rollout.call_ok and rollout.calls[0].names(example.focus_labels)
