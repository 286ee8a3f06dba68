"""Is this teacher informative? Asked before training: does the penalty tell right calls from wrong ones?

Only differences inside a group of rollouts reach the advantage, so everything here is measured within groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Verdict = Literal["informative", "weak", "not"]

_INFORMATIVE = 0.6
"""The interval's lower end must clear it: a penalty right in three pairs of five is the least to pay for."""
_CHANCE = 0.5
_FEWEST_GROUPS = 10
"""With fewer groups that hold right and wrong calls, a bootstrap over groups says nothing."""


@dataclass(frozen=True)
class Informativeness:
    """How well a penalty ranks a group's wrong calls above its right ones."""

    auc: float
    """Share of (right, wrong) pairs of a group in which the wrong call's penalty is larger, ties half."""
    auc_low: float
    auc_high: float
    """95 % interval, bootstrap over groups."""
    correlation: float
    """Pearson correlation of penalty and wrongness, both centred within groups; nan where either is constant."""
    penalty_std: float
    """Standard deviation of the penalty within groups, its own units."""
    mixed_groups: int
    """Groups with right and wrong calls; only they say anything."""
    calls: int
    verdict: Verdict

    @property
    def sentence(self) -> str:
        """The verdict for people."""
        meaning = {
            "informative": "the penalty tells right calls from wrong ones",
            "weak": "the penalty is better than chance, but by little",
            "not": "the penalty does not tell right calls from wrong ones",
        }[self.verdict]
        if self.mixed_groups < _FEWEST_GROUPS:
            meaning = f"too few groups hold both right and wrong calls (expected at least {_FEWEST_GROUPS})"
        return (
            f"{self.verdict}: {meaning}; within-group AUC {self.auc:.2f} [{self.auc_low:.2f}, {self.auc_high:.2f}] "
            f"over {self.mixed_groups} groups"
        )


def informativeness(
    penalties: Sequence[float], correct: Sequence[bool], groups: Sequence[str], *, seed: int = 0, draws: int = 2000
) -> Informativeness:
    """Ask one teacher.

    Args:
        penalties: [N] of the calls, one a rollout: what is sampled often counts often, as in training.
        correct: [N] whether the call is right.
        groups: [N] the prompt of each call.
        seed: of the bootstrap.
        draws: resamples.

    Returns:
        ``not`` where the interval reaches chance or less, ``informative`` where its lower end is above .6,
        ``weak`` in between.
    """
    values, wrong = np.asarray(penalties, dtype=np.float64), ~np.asarray(correct, dtype=bool)
    index = _group_index(groups)
    won = []
    for group in range(int(index.max(initial=-1)) + 1):
        here = index == group
        bad, good = values[here & wrong], values[here & ~wrong]
        if len(bad) and len(good):
            won.append(auc_of(bad, good))
    auc, low, high = _bootstrap_mean(np.array(won), seed, draws)
    centred, centred_wrong = centre(values, groups), centre(wrong.astype(np.float64), groups)
    verdict: Verdict = "not"
    if len(won) >= _FEWEST_GROUPS and low > _CHANCE:
        verdict = "informative" if low > _INFORMATIVE else "weak"
    return Informativeness(
        auc=auc,
        auc_low=low,
        auc_high=high,
        correlation=correlation(centred, centred_wrong),
        penalty_std=float(np.sqrt((centred**2).mean())) if len(centred) else float("nan"),
        mixed_groups=len(won),
        calls=len(values),
        verdict=verdict,
    )


def agreement(one: Sequence[float], other: Sequence[float], groups: Sequence[str]) -> float:
    """How far two teachers penalise the same calls alike: correlation within groups, nan where either is constant.

    Args:
        one: [N] penalties by the first teacher.
        other: [N] by the second one.
        groups: [N] the prompt of each call.
    """
    first, second = (centre(np.asarray(each, dtype=np.float64), groups) for each in (one, other))
    return correlation(first, second)


def auc_of(higher: NDArray[np.float64], lower: NDArray[np.float64]) -> float:
    """Share of pairs in which the value of ``higher`` is larger, ties half."""
    gap = higher[:, None] - lower[None, :]
    # Rounding must not decide a tie: the same call has the same penalty.
    return float(np.where(np.abs(gap) < 1e-9, 0.5, gap > 0).mean())


def centre(values: NDArray[np.float64], groups: Sequence[str]) -> NDArray[np.float64]:
    """Each value minus its group's mean."""
    index = _group_index(groups)
    sizes = np.bincount(index)
    return np.asarray(values - (np.bincount(index, values) / sizes)[index], dtype=np.float64)


def correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Pearson's; nan where either does not vary beyond rounding."""
    if len(one) < 2 or min(np.ptp(one), np.ptp(other)) < 1e-9:
        return float("nan")
    return float(np.corrcoef(one, other)[0, 1])


def _group_index(groups: Sequence[str]) -> NDArray[np.intp]:
    _, index = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    return index


def _bootstrap_mean(values: NDArray[np.float64], seed: int, draws: int) -> tuple[float, float, float]:
    """Mean and 95 % interval over resampled groups; nan without any."""
    if not len(values):
        return float("nan"), float("nan"), float("nan")
    chosen = np.random.default_rng(seed).integers(0, len(values), (draws, len(values)))
    low, high = np.quantile(values[chosen].mean(1), [0.025, 0.975])
    return float(values.mean()), float(low), float(high)
