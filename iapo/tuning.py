"""The weight of each method's tool reward, chosen on the dev split by the same few trial runs a method.

So no baseline loses by a weight that we happened to like: every method with a weight gets the same number of
trials of the same length, from the same cold start, and never sees the test split.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from iapo.answers import extract, score
from iapo.rollout import roll_out
from iapo.types import Example


@dataclass(frozen=True)
class Trial:
    """One short run and what its policy does on the dev split, decoded greedily."""

    factor: float
    """Times the configured weight."""
    weight: float
    accuracy: float
    call_rate: float
    items: int


def run_trials(
    factors: Sequence[float], configured: float, run: Callable[[float], tuple[float, float, int]]
) -> list[Trial]:
    """One trial a factor.

    Args:
        factors: of the configured weight.
        configured: the weight in the config.
        run: trains with a weight and returns accuracy and call rate on the dev split, and its number of items.
    """
    trials = []
    for factor in factors:
        weight = factor * configured
        trials.append(Trial(factor, weight, *run(weight)))
        print(
            f"weight {weight:g}: dev accuracy {trials[-1].accuracy:.3f}, calls {trials[-1].call_rate:.2f}", flush=True
        )
    return trials


def best(trials: Sequence[Trial]) -> Trial:
    """The most accurate trial; among equals the one nearest the configured weight."""
    return max(trials, key=lambda trial: (trial.accuracy, -abs(math.log(trial.factor))))


def dev_figures(
    model: Any, processor: Any, examples: Sequence[Example], *, batch_size: int, turn_tokens: int
) -> tuple[float, float, int]:
    """Accuracy, call rate and number of items of a policy on some questions, decoded greedily.

    Args:
        model: in eval mode.
        processor: its processor.
        examples: of the dev split.
        batch_size: questions decoded together.
        turn_tokens: longest turn, tokens.
    """
    scores: list[float] = []
    called = 0
    for start in range(0, len(examples), batch_size):
        chunk = examples[start : start + batch_size]
        for example, rollout in zip(chunk, roll_out(model, processor, chunk, turn_tokens=turn_tokens), strict=True):
            scores.append(score(extract(rollout.texts[-1]), example.answer, example.metric))
            called += rollout.called
    return sum(scores) / len(scores), called / len(scores), len(scores)
