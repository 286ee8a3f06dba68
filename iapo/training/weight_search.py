"""Search for the weight of each method's tool reward, on the dev split.

Every method with such a weight gets the same number of short trial runs, of the same length and from the same
cold-started policy, and none sees the test split. A baseline therefore cannot lose because its weight was chosen with
less care than ours.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from iapo.models.interfaces import Processor
from iapo.rewards.answers.extraction import extract
from iapo.rewards.answers.matching import score
from iapo.rollout.generation import Writer
from iapo.rollout.two_turn import roll_out
from iapo.types import Example

_log = logging.getLogger(__name__)


class DevFigures(NamedTuple):
    """A policy's greedy results on the dev split."""

    accuracy: float
    """Share of correct answers, in [0, 1]."""
    call_rate: float
    """Share of rollouts that attempt a tool call, in [0, 1]."""
    items: int
    """Number of questions."""


@dataclass(frozen=True)
class Trial:
    """One short training run with one weight, and its policy's greedy results on the dev split."""

    factor: float
    """Multiple of the configured weight."""
    weight: float
    """Weight that the run was trained with."""
    accuracy: float
    """Share of correct answers, in [0, 1]."""
    call_rate: float
    """Share of rollouts that attempt a tool call, in [0, 1]."""
    items: int
    """Number of questions."""


def run_trials(
    factors: Sequence[float],
    configured: float,
    train: Callable[[float], Path],
    answer: Callable[[Sequence[Path]], Sequence[DevFigures]],
) -> list[Trial]:
    """Run one trial per factor, and then ask all policies together, for which the dev split is read once.

    Args:
        factors: multiples of the configured weight to try.
        configured: weight in the configuration.
        train: trains with the given weight and returns the policy's pretrained directory.
        answer: returns the results of each policy on the dev split.
    """
    weights = [factor * configured for factor in factors]
    found = answer([train(weight) for weight in weights])
    trials = [Trial(factor, weight, *each) for factor, weight, each in zip(factors, weights, found, strict=True)]
    for trial in trials:
        _log.info("weight %g: dev accuracy %.3f, calls %.2f", trial.weight, trial.accuracy, trial.call_rate)
    return trials


def best(trials: Sequence[Trial]) -> Trial:
    """Return the most accurate trial; a tie goes to the weight nearest to the configured one."""
    return max(trials, key=lambda trial: (trial.accuracy, -abs(math.log(trial.factor))))


def dev_figures(
    writer: Writer, processor: Processor, examples: Sequence[Example], *, batch_size: int, turn_tokens: int
) -> DevFigures:
    """Evaluate a policy with greedy decoding.

    Args:
        writer: the policy, in eval mode, or the engine that runs it.
        processor: its processor.
        examples: questions of the dev split.
        batch_size: number of questions decoded together.
        turn_tokens: maximum length of a turn, in tokens.
    """
    scores: list[float] = []
    called = 0
    for start in range(0, len(examples), batch_size):
        chunk = examples[start : start + batch_size]
        for example, rollout in zip(chunk, roll_out(writer, processor, chunk, turn_tokens=turn_tokens), strict=True):
            scores.append(score(extract(rollout.texts[-1]), example.answer, example.metric))
            called += rollout.called
    return DevFigures(sum(scores) / len(scores), called / len(scores), len(scores))
