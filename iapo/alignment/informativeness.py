"""How informative a teacher is, measured before training: does its penalty separate right calls from wrong ones?

GRPO's advantage depends only on differences within a group of rollouts, so everything here is measured within groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Verdict = Literal["informative", "weak", "not"]
"""Whether the penalty separates right calls from wrong ones: clearly, a little better than chance, or not at all."""


_INFORMATIVE = 0.6
"""AUC that the interval's lower end must exceed: a penalty that ranks fewer than three pairs in five correctly is not
worth the cost of a teacher."""


_CHANCE = 0.5
"""AUC of a penalty that is independent of correctness."""


_MIN_GROUPS = 10
"""Fewest mixed groups for a verdict; a bootstrap over fewer groups is meaningless."""


@dataclass(frozen=True)
class Informativeness:
    """How well a penalty ranks the wrong calls of a group above its right ones."""

    auc: float
    """Share of a group's (right, wrong) pairs in which the wrong call has the larger penalty, ties counting half; mean
    over the mixed groups, nan without any."""
    auc_low: float
    """Lower end of the 95 % interval, from a bootstrap over groups."""
    auc_high: float
    """Its upper end."""
    correlation: float
    """Pearson correlation of penalty and wrongness, both centred within groups; nan where either is constant."""
    penalty_std: float
    """Standard deviation of the penalty within groups, in the penalty's unit."""
    mixed_groups: int
    """Number of groups with both right and wrong calls; the AUC rests on them alone."""
    calls: int
    """Number of calls, mixed groups or not."""
    verdict: Verdict
    """The conclusion."""

    @property
    def sentence(self) -> str:
        """The verdict and its numbers in words."""
        meaning = {
            "informative": "the penalty tells right calls from wrong ones",
            "weak": "the penalty is better than chance, but by little",
            "not": "the penalty does not tell right calls from wrong ones",
        }[self.verdict]
        if self.mixed_groups < _MIN_GROUPS:
            meaning = f"too few groups hold both right and wrong calls (expected at least {_MIN_GROUPS})"
        return (
            f"{self.verdict}: {meaning}; within-group AUC {self.auc:.2f} [{self.auc_low:.2f}, {self.auc_high:.2f}] "
            f"over {self.mixed_groups} groups"
        )


def informativeness(
    penalties: Sequence[float], correct: Sequence[bool], groups: Sequence[str], *, seed: int = 0, draws: int = 2000
) -> Informativeness:
    """Measure how well one teacher's penalty separates right calls from wrong ones.

    Args:
        penalties: [N] one per rollout, so that a call sampled often counts often, as in training.
        correct: [N] whether each call is right.
        groups: [N] name of each call's prompt.
        seed: of the bootstrap.
        draws: bootstrap resamples.

    Returns:
        The AUC with its interval and the verdict: ``not`` where the interval reaches chance or there are fewer than 10
        mixed groups, ``informative`` where its lower end exceeds 0.6, ``weak`` in between.

    Raises:
        ValueError: for a penalty that is not finite, of which no verdict could be trusted.
    """
    values, wrong = np.asarray(penalties, dtype=np.float64), ~np.asarray(correct, dtype=bool)
    if not np.isfinite(values).all():
        first = int(np.flatnonzero(~np.isfinite(values))[0])
        raise ValueError(
            f"found {np.count_nonzero(~np.isfinite(values))} of {len(values)} penalties not finite (the first in group "
            f"{groups[first]}), expected none; look at the attributions of that prompt's calls"
        )
    index = _group_index(groups)
    group_aucs = []
    for group in range(int(index.max(initial=-1)) + 1):
        here = index == group
        of_wrong, of_right = values[here & wrong], values[here & ~wrong]
        if len(of_wrong) and len(of_right):
            group_aucs.append(auc_of(of_wrong, of_right))
    auc, low, high = _bootstrap_mean(np.array(group_aucs), seed, draws)
    centred, centred_wrong = centre(values, groups), centre(wrong.astype(np.float64), groups)
    verdict: Verdict = "not"
    if len(group_aucs) >= _MIN_GROUPS and low > _CHANCE:
        verdict = "informative" if low > _INFORMATIVE else "weak"
    return Informativeness(
        auc=auc,
        auc_low=low,
        auc_high=high,
        correlation=correlation(centred, centred_wrong),
        penalty_std=float(np.sqrt((centred**2).mean())) if len(centred) else float("nan"),
        mixed_groups=len(group_aucs),
        calls=len(values),
        verdict=verdict,
    )


def agreement(one: Sequence[float], other: Sequence[float], groups: Sequence[str]) -> float:
    """Return how similarly two teachers penalise the same calls: their correlation within groups.

    Args:
        one: [N] the first teacher's penalties.
        other: [N] the second teacher's.
        groups: [N] name of each call's prompt.

    Returns:
        Pearson correlation of the group-centred penalties; nan where either is constant.
    """
    first, second = (centre(np.asarray(each, dtype=np.float64), groups) for each in (one, other))
    return correlation(first, second)


def auc_of(higher: NDArray[np.float64], lower: NDArray[np.float64]) -> float:
    """Return the share of pairs in which the value from ``higher`` is larger, ties counting half.

    Args:
        higher: values that should rank higher.
        lower: values that should rank lower.
    """
    # Equal calls have equal penalties up to rounding, which must not break the tie.
    won = stats.mannwhitneyu(higher.round(9), lower.round(9), method="asymptotic").statistic
    return float(won / (len(higher) * len(lower)))


def centre(values: NDArray[np.float64], groups: Sequence[str]) -> NDArray[np.float64]:
    """Return each value minus its group's mean.

    Args:
        values: [N]
        groups: [N] name of each value's group.
    """
    index = _group_index(groups)
    sizes = np.bincount(index)
    return np.asarray(values - (np.bincount(index, values) / sizes)[index], dtype=np.float64)


def correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Return Pearson's correlation; nan where either side does not vary beyond rounding."""
    if len(one) < 2 or min(np.ptp(one), np.ptp(other)) < 1e-9:
        return float("nan")
    return float(np.corrcoef(one, other)[0, 1])


def _group_index(groups: Sequence[str]) -> NDArray[np.intp]:
    """Number the groups: [N] integers from 0."""
    _, index = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    return index


def _bootstrap_mean(values: NDArray[np.float64], seed: int, draws: int) -> tuple[float, float, float]:
    """Return the mean and its 95 % bootstrap interval over groups; nan without any group."""
    mean = float(values.mean()) if len(values) else float("nan")
    if len(values) < 2:
        return mean, mean, mean
    rng = np.random.default_rng(seed)
    found = stats.bootstrap((values,), np.mean, n_resamples=draws, method="percentile", rng=rng).confidence_interval
    return mean, float(found.low), float(found.high)
