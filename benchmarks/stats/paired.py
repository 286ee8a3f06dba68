"""Paired differences of methods over items, clusters of items and training runs: interval, p-value, power.

Shapes: K test sets, S seeds, N items of a set, C clusters; scores are arrays [S, N] in [0, 1].

The variance of a difference has two components. *Items* come in clusters, such as the questions that ask for one label,
which may lie in several test sets: their component is the cluster-robust variance of the mean over the sets. *Seeds*
are training runs: their component is each method's own variance of its runs' means (Welch), since one method's runs may
lie much further apart than another's. Where seeds are replicates that the methods share, such as cold starts that every
method trains from, it is the variance of the differences seed by seed (``paired_seeds``). Seeds that share a cold start
are no independent replicates: their means by cold start are (``starts``), with the number of cold starts less one as
degrees of freedom. Both components contain the interaction of seeds and items (the noise with which one run answers
particular items); it is estimated from the residuals of items × seeds and counted once. As few seeds and few clusters
estimate a variance poorly, tests and intervals use Student's t with Welch–Satterthwaite degrees of freedom.
``tests/benchmarks/test_claims.py`` checks the calibration.

The interval is symmetric and excludes 0 exactly when ``p`` < 1 − level. Its variance is in closed form, the limit of a
bootstrap of the mean. The bootstrap itself (clusters drawn with replacement, a normal seed component) only widens it,
where the ``level`` quantile of the absolute deviation exceeds a normal variable's; that quantile is accurate to second
order, those of the two tails to first (Hall 1988). All randomness comes from a seeded ``numpy.random.Generator``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm
from scipy.stats import t as student

from benchmarks.stats.components import (
    ROUNDING,
    ItemPart,
    Scores,
    Term,
    by_seed,
    checked_scores,
    checked_terms,
    independent_sides,
    item_part,
    seed_part,
)


@dataclass(frozen=True)
class PairedDifference:
    """Difference of two means, a − b, with its confidence interval and two-sided p-value."""

    delta: float
    low: float
    high: float
    p: float
    standard_error: float
    """Half the interval's width divided by the quantile of Student's t."""
    freedom: float
    """Effective degrees of freedom over clusters and seeds (Welch–Satterthwaite)."""
    items_error: float
    """Standard error from the questions alone: of these very runs, over clusters of questions."""

    def power(self, difference: float, level: float = 0.95) -> float:
        """Return the power: the probability that a comparison like this one detects a true difference.

        A normal approximation with Student's critical value and a standard error corrected for bias (the root of an
        unbiased variance is low by 1 − 1/4f); the noncentral t would count the standard error's noise twice.

        Args:
            difference: true difference in the unit of the scores (0.05 is five points of accuracy).
            level: confidence level of the test.
        """
        critical = float(student.ppf((1 + level) / 2, self.freedom))
        shift = abs(difference) / self._unbiased_error
        return float(norm.sf(critical - shift) + norm.cdf(-critical - shift))

    def detectable(self, power: float = 0.8, level: float = 0.95) -> float:
        """Return the smallest true difference that a comparison like this one detects with the given power.

        Args:
            power: probability of detection, in [0.5, 1).
            level: confidence level of the test.

        Raises:
            ValueError: for a power outside [0.5, 1).
        """
        return smallest_detectable(self._unbiased_error, self.freedom, power, level)

    def is_equivalent(self, margin: float, level: float = 0.95) -> bool:
        """Whether the true difference lies within ±margin, by two one-sided tests (Schuirmann 1987).

        Args:
            margin: largest difference that does not matter, in the unit of the scores.
            level: confidence level of each one-sided test.
        """
        return abs(self.delta) + float(student.ppf(level, self.freedom)) * self.standard_error < margin

    @property
    def _unbiased_error(self) -> float:
        return unbiased(self.standard_error, self.freedom)


def unbiased(error: float, freedom: float) -> float:
    """Return the root of an unbiased variance without its bias, which is low by 1 − 1/4f.

    Args:
        error: standard error or deviation, the root of a variance's unbiased estimate.
        freedom: degrees of freedom of that estimate.
    """
    return error / (1 - 1 / (4 * freedom))


def smallest_detectable(error: float, freedom: float, power: float, level: float) -> float:
    """Return the smallest true difference that a t test with this standard error detects with the given power.

    Args:
        error: standard error of the difference, without bias.
        freedom: degrees of freedom of the test.
        power: probability of detection, in [0.5, 1).
        level: confidence level of the test.

    Raises:
        ValueError: for a power outside [0.5, 1).
    """
    if not 0.5 <= power < 1:
        raise ValueError(f"found power {power}; expected at least 0.5 and below 1")
    critical = float(student.ppf((1 + level) / 2, freedom))
    return (critical + float(norm.ppf(power))) * error


@dataclass(frozen=True)
class MacroAverage:
    """Unweighted mean over test sets, with its confidence interval."""

    mean: float
    low: float
    high: float
    standard_error: float
    """√(Σ se²) / number of sets, where each se is over the items alone."""


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    *,
    clusters: Sequence[object] | None = None,
    level: float = 0.95,
    seed: int = 0,
    draws: int = 4000,
) -> PairedDifference:
    """Return how much better a is than b on the same items, with interval and p-value over items and seeds.

    Args:
        a: scores [S, N].
        b: scores [S', N]; the number of seeds may differ (an untrained policy has one).
        clusters: cluster of each item [N], such as the label it asks for; each item is its own cluster if None.
        level: confidence level of the interval.
        seed: seed of the bootstrap.
        draws: number of bootstrap resamples.

    Raises:
        ValueError: for different numbers of items or missing scores.
    """
    shared = None if clusters is None else {"": clusters}
    return macro_paired_difference({"": a}, {"": b}, clusters=shared, level=level, seed=seed, draws=draws)


def macro_paired_difference(
    a: Mapping[str, ArrayLike],
    b: Mapping[str, ArrayLike],
    *,
    clusters: Mapping[str, Sequence[object]] | None = None,
    starts: Sequence[int] | None = None,
    paired_seeds: bool = False,
    level: float = 0.95,
    seed: int = 0,
    draws: int = 4000,
) -> PairedDifference:
    """Return the paired difference of the unweighted means over test sets; a seed is one training run on all sets.

    A method with one seed adds no seed component; where both have one, the result holds for these two runs only.

    Args:
        a: test set → scores [S, N].
        b: test set → scores [S', N].
        clusters: test set → cluster of each item [N]; a cluster of one name is the same in all sets.
        starts: as for :func:`linear_contrast`.
        paired_seeds: as for :func:`linear_contrast`.
        level: confidence level of the interval.
        seed: seed of the bootstrap.
        draws: number of bootstrap resamples.

    Raises:
        ValueError: for different test sets or numbers of items, or missing scores.
    """
    settings: dict[str, Any] = {"clusters": clusters, "starts": starts, "paired_seeds": paired_seeds}
    return linear_contrast([(1.0, a), (-1.0, b)], **settings, level=level, seed=seed, draws=draws)


def linear_contrast(
    terms: Sequence[Term],
    *,
    clusters: Mapping[str, Sequence[object]] | None = None,
    starts: Sequence[int] | None = None,
    paired_seeds: bool = False,
    level: float = 0.95,
    seed: int = 0,
    draws: int = 4000,
) -> PairedDifference:
    """Return a weighted sum of several methods' means over the test sets, with its interval and p-value.

    Args:
        terms: a weight and scores [S, N] by test set for each method, all on the same items.
        clusters: test set → cluster of each item [N]; a cluster of one name is the same in all sets.
        starts: number of each seed's cold start [S], from 0; seeds of one start count as one replicate. None, or one
            start for all: every seed counts, and the result holds for this start. A method with fewer runs has the
            first seeds'.
        paired_seeds: whether seed s of every method shares cold start and teacher, so that the sum is taken seed by
            seed. A policy with a run for each cold start takes part with the seed's.
        level: confidence level of the interval.
        seed: seed of the bootstrap.
        draws: number of bootstrap resamples.

    Raises:
        ValueError: for different test sets or numbers of items, missing scores, or seeds that cannot be paired.
    """
    checked = by_seed(checked_terms(terms), starts) if paired_seeds else checked_terms(terms)
    items = item_part(checked, clusters)
    seeds, noisy_seeds, seeds_freedom = seed_part(independent_sides(checked, starts, paired=paired_seeds), items)
    # Subtracting the interaction makes the seed component no more precise, so its noisy estimate sets the freedom.
    freedom = (items.variance + seeds) ** 2 / (items.variance**2 / items.freedom + noisy_seeds**2 / seeds_freedom)
    freedom = max(freedom, min(items.freedom, seeds_freedom))

    rng = np.random.default_rng(seed)
    noise = _resampled(items, rng, seed, draws) + math.sqrt(seeds) * rng.standard_normal(draws)
    error = math.sqrt(items.variance + seeds) * _widening(noise, level)
    half = error * float(student.ppf((1 + level) / 2, freedom))
    p = 2 * float(student.sf(abs(items.mean) / error, freedom))
    low, high = max(-1.0, items.mean - half), min(1.0, items.mean + half)
    return PairedDifference(items.mean, low, high, p, error, float(freedom), math.sqrt(items.variance))


def macro_average(
    scores: Mapping[str, ArrayLike],
    *,
    clusters: Mapping[str, Sequence[object]] | None = None,
    starts: Sequence[int] | None = None,
    level: float = 0.95,
    seed: int = 0,
    draws: int = 4000,
) -> MacroAverage:
    """Return the unweighted mean over test sets, with an interval over items and seeds.

    Args:
        scores: test set → scores [S, N].
        clusters: test set → cluster of each item [N].
        starts: as for :func:`linear_contrast`.
        level: confidence level of the interval.
        seed: seed of the bootstrap.
        draws: number of bootstrap resamples.
    """
    found = linear_contrast([(1.0, scores)], clusters=clusters, starts=starts, level=level, seed=seed, draws=draws)
    squared = [
        checked_scores(values, name).mean(0).var(ddof=1) / np.shape(values)[1] for name, values in scores.items()
    ]
    error = math.sqrt(sum(squared)) / len(squared)
    return MacroAverage(found.delta, max(0.0, found.low), min(1.0, found.high), error)


def _widening(noise: Scores, level: float) -> float:
    """Ratio of the ``level`` quantile of |noise| to that of a normal variable of the same variance, at least 1.

    Ratios below 1 are artefacts of the bootstrap's coarse steps with few clusters, and would inflate false claims.
    """
    normal = float(norm.ppf((1 + level) / 2)) * math.sqrt(float(noise @ noise) / len(noise))
    return max(1.0, float(np.quantile(np.abs(noise), level)) / normal)


def _resampled(items: ItemPart, rng: np.random.Generator, seed: int, draws: int) -> Scores:
    """Bootstrap deviations of the mean over the sets, [draws]; whole clusters are resampled."""
    if float(items.deviations @ items.deviations) < ROUNDING:
        return math.sqrt(items.variance) * rng.standard_normal(draws)
    c = len(items.deviations)
    sums = (_resamples(seed, c, draws) @ items.deviations.astype(np.float32)).astype(np.float64)
    # The bootstrap's variance is (c − 1)/c times the unbiased one.
    return sums * math.sqrt(c / (c - 1))


@lru_cache(maxsize=8)
def _resamples(seed: int, clusters: int, draws: int) -> NDArray[np.float32]:
    """Number of times that each cluster is drawn, [draws, C]; kept, since a table compares the same items often."""
    rng = np.random.default_rng([seed, clusters])
    counts = rng.multinomial(clusters, np.full(clusters, 1 / clusters), size=draws).astype(np.float32)
    counts.flags.writeable = False
    return counts
