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

from iapo.models.interfaces import Processor, QwenVL
from iapo.rewards.answers.extraction import extract
from iapo.rewards.answers.matching import score
from iapo.rollout.two_turn import roll_out
from iapo.types import Example

_log = logging.getLogger(__name__)


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
    factors: Sequence[float], configured: float, run: Callable[[float], tuple[float, float, int]]
) -> list[Trial]:
    """Run one trial per factor.

    Args:
        factors: multiples of the configured weight to try.
        configured: weight in the configuration.
        run: trains with the given weight and returns the policy's accuracy, its call rate and the number of questions
            on the dev split.
    """
    trials = []
    for factor in factors:
        weight = factor * configured
        trials.append(Trial(factor, weight, *run(weight)))
        _log.info("weight %g: dev accuracy %.3f, calls %.2f", weight, trials[-1].accuracy, trials[-1].call_rate)
    return trials


def best(trials: Sequence[Trial]) -> Trial:
    """Return the most accurate trial; a tie goes to the weight nearest to the configured one."""
    return max(trials, key=lambda trial: (trial.accuracy, -abs(math.log(trial.factor))))


def dev_figures(
    model: QwenVL, processor: Processor, examples: Sequence[Example], *, batch_size: int, turn_tokens: int
) -> tuple[float, float, int]:
    """Evaluate a policy with greedy decoding.

    Args:
        model: the policy, in eval mode.
        processor: its processor.
        examples: questions of the dev split.
        batch_size: number of questions decoded together.
        turn_tokens: maximum length of a turn, in tokens.

    Returns:
        Accuracy, call rate and number of questions.
    """
    scores: list[float] = []
    called = 0
    for start in range(0, len(examples), batch_size):
        chunk = examples[start : start + batch_size]
        for example, rollout in zip(chunk, roll_out(model, processor, chunk, turn_tokens=turn_tokens), strict=True):
            scores.append(score(extract(rollout.texts[-1]), example.answer, example.metric))
            called += rollout.called
    return sum(scores) / len(scores), called / len(scores), len(scores)
