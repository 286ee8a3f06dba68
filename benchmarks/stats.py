"""Confidence intervals, tests and power for accuracies and for paired differences over items and seeds.

Shapes: S seeds, N items, C clusters; scores are arrays [S, N] in [0, 1].

The variance of a difference has two components. *Items*, in clusters that share a figure, are sampled from a
population: their component is the cluster-robust variance of the item differences. *Seeds* are training runs: their
component is the variance of the runs' means, pooled over the methods. Both contain the interaction of seeds and items
(the noise with which one run answers particular items); it is estimated from the residuals of items × seeds and counted
once. As few seeds estimate a variance poorly, tests and intervals use Student's t with Welch–Satterthwaite degrees of
freedom. ``tests/benchmarks/test_claims.py`` checks the calibration.

The interval is symmetric and excludes 0 exactly when ``p`` < 1 − level. Its variance is in closed form, the limit of a
bootstrap of the mean. The bootstrap itself (clusters drawn with replacement, a normal seed component) only widens it,
where the ``level`` quantile of the absolute deviation exceeds a normal variable's; that quantile is accurate to second
order, those of the two tails to first (Hall 1988). Test sets with equally many clusters at the same position share
their resamples, so that a table draws them once. All randomness comes from a seeded ``numpy.random.Generator``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest, norm
from scipy.stats import t as student

Scores = NDArray[np.float64]
"""Scores [S, N] in [0, 1]."""
_ROUNDING = 1e-20
"""Variance below which numbers count as equal up to rounding."""


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
    """Effective degrees of freedom over items and seeds (Welch–Satterthwaite)."""

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
        if not 0.5 <= power < 1:
            raise ValueError(f"found power {power}; expected at least 0.5 and below 1")
        critical = float(student.ppf((1 + level) / 2, self.freedom))
        return (critical + float(norm.ppf(power))) * self._unbiased_error

    @property
    def _unbiased_error(self) -> float:
        return self.standard_error / (1 - 1 / (4 * self.freedom))


@dataclass(frozen=True)
class MacroAverage:
    """Unweighted mean over test sets, with its confidence interval."""

    mean: float
    low: float
    high: float
    standard_error: float
    """√(Σ se²) / number of sets, where each se is over the items alone."""


@dataclass(frozen=True)
class McNemar:
    """Numbers of items that only one of two methods answers correctly, and the exact two-sided p-value."""

    only_a: int
    only_b: int
    p: float


def wilson(k: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval for a proportion.

    Args:
        k: number of successes; may be fractional, such as a mean over seeds.
        n: number of trials.
        level: confidence level.

    Raises:
        ValueError: unless 0 ≤ k ≤ n and n > 0.
    """
    if n <= 0 or not 0 <= k <= n:
        raise ValueError(f"found k={k}, n={n}; expected 0 <= k <= n and n > 0")
    z = float(norm.ppf((1 + level) / 2))
    p = k / n
    scale = 1 + z * z / n
    centre = (p + z * z / (2 * n)) / scale
    half = z / scale * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low = 0.0 if k == 0 else max(0.0, centre - half)
    high = 1.0 if k == n else min(1.0, centre + half)
    return low, high


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for multiple comparisons (Holm 1979), which controls the family-wise error rate.

    Args:
        p_values: p-values of one family; NaN where nothing was compared, which stays NaN and is not counted.

    Returns:
        Adjusted p-values in the order given, at most 1.

    Raises:
        ValueError: for a p-value outside [0, 1].
    """
    p = np.asarray(p_values, dtype=np.float64)
    if ((p < 0) | (p > 1)).any():
        raise ValueError(f"found p-values {p[(p < 0) | (p > 1)].tolist()}; expected them in [0, 1]")
    compared = np.flatnonzero(~np.isnan(p))
    rising = compared[np.argsort(p[compared], kind="stable")]
    adjusted = np.full_like(p, np.nan)
    adjusted[rising] = np.minimum(1, np.maximum.accumulate(p[rising] * np.arange(len(rising), 0, -1)))
    return [float(each) for each in adjusted]


def mcnemar(a: ArrayLike, b: ArrayLike) -> McNemar:
    """Run McNemar's exact test over items.

    Seeds are not independent trials: an item counts as correct if the majority of its seeds is, and an item tied in
    either method is ignored. The variation between training runs enters :func:`paired_difference` alone.

    Args:
        a: scores [S, N].
        b: scores [S', N] of the same items.

    Raises:
        ValueError: for different numbers of items or missing scores.
    """
    first, second = _pair(a, b, "")
    right_a, right_b = first.mean(0), second.mean(0)
    only_a = int(((right_a > 0.5) & (right_b < 0.5)).sum())
    only_b = int(((right_a < 0.5) & (right_b > 0.5)).sum())
    p = float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    return McNemar(only_a, only_b, p)


def verdict(
    difference: PairedDifference, p: float, *, level: float = 0.95, power: float = 0.8, comparisons: int = 1
) -> str:
    """Return the result of a comparison in words.

    Args:
        difference: the paired difference.
        p: its p-value, adjusted by :func:`holm` where it is one of several.
        level: confidence level of the test.
        power: power at which the smallest detectable difference is stated.
        comparisons: number that ``p`` is adjusted for; a detectable difference passes Holm's first, strictest step.

    Returns:
        "better", "worse" or "no difference found", the last with the smallest detectable difference up to 100 points.

    Raises:
        ValueError: if the p-value is missing or outside [0, 1].
    """
    if not 0 <= p <= 1:
        raise ValueError(f"found p={p}; expected it in [0, 1]: compare first")
    if p < 1 - level:
        return "better" if difference.delta > 0 else "worse"
    smallest = difference.detectable(power, 1 - (1 - level) / comparisons)
    return f"no difference found (could have found {f'≥ {100 * smallest:.1f} points' if smallest <= 1 else 'none'})"


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
        clusters: cluster of each item [N], such as its figure; each item is a cluster of its own if None.
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
    level: float = 0.95,
    seed: int = 0,
    draws: int = 4000,
) -> PairedDifference:
    """Return the paired difference of the unweighted means over test sets; a seed is one training run on all sets.

    A method with one seed adds no seed component; where both have one, the result holds for these two runs only.

    Args:
        a: test set → scores [S, N].
        b: test set → scores [S', N].
        clusters: test set → cluster of each item [N].
        level: confidence level of the interval.
        seed: seed of the bootstrap.
        draws: number of bootstrap resamples.

    Raises:
        ValueError: for different test sets or numbers of items, or missing scores.
    """
    if a.keys() != b.keys():
        raise ValueError(f"found sets {sorted(a)} against {sorted(b)}; expected the same")
    pairs = {name: _pair(a[name], b[name], name) for name in a}
    parts = [_item_part(*pair, clusters[name] if clusters else None) for name, pair in pairs.items()]
    items = sum(part.variance for part in parts) / len(parts) ** 2
    items_freedom = (items * len(parts) ** 2) ** 2 / sum(part.variance**2 / part.freedom for part in parts)
    seeds, noisy_seeds, seeds_freedom = _seed_part(list(pairs.values()), parts)
    # Subtracting the interaction makes the seed component no more precise, so its noisy estimate sets the freedom.
    freedom = (items + seeds) ** 2 / (items**2 / items_freedom + noisy_seeds**2 / seeds_freedom)
    freedom = max(freedom, min(items_freedom, seeds_freedom))

    rng = np.random.default_rng([seed, len(parts)])
    resampled = [_resampled(part, rng, seed, position, draws) for position, part in enumerate(parts)]
    noise = np.mean(resampled, axis=0) + math.sqrt(seeds) * rng.standard_normal(draws)
    error = math.sqrt(items + seeds) * _widening(noise, level)
    delta = float(np.mean([first.mean() - second.mean() for first, second in pairs.values()]))
    half = error * float(student.ppf((1 + level) / 2, freedom))
    p = 2 * float(student.sf(abs(delta) / error, freedom))
    return PairedDifference(delta, max(-1.0, delta - half), min(1.0, delta + half), p, error, float(freedom))


def macro_average(
    scores: Mapping[str, ArrayLike],
    *,
    clusters: Mapping[str, Sequence[object]] | None = None,
    level: float = 0.95,
    seed: int = 0,
    draws: int = 4000,
) -> MacroAverage:
    """Return the unweighted mean over test sets, with an interval over items and seeds.

    Args:
        scores: test set → scores [S, N].
        clusters: test set → cluster of each item [N].
        level: confidence level of the interval.
        seed: seed of the bootstrap.
        draws: number of bootstrap resamples.
    """
    nothing = {name: np.zeros((1, np.shape(values)[1])) for name, values in scores.items()}
    result = macro_paired_difference(scores, nothing, clusters=clusters, level=level, seed=seed, draws=draws)
    squared = [_scores(values, name).mean(0).var(ddof=1) / np.shape(values)[1] for name, values in scores.items()]
    error = math.sqrt(sum(squared)) / len(squared)
    return MacroAverage(result.delta, max(0.0, result.low), min(1.0, result.high), error)


def _pair(a: ArrayLike, b: ArrayLike, name: str) -> tuple[Scores, Scores]:
    first, second = _scores(a, name), _scores(b, name)
    if first.shape[1] != second.shape[1]:
        raise ValueError(
            f"{name or 'scores'}: found {first.shape[1]} items against {second.shape[1]}; expected the same"
        )
    return first, second


def _scores(values: ArrayLike, name: str) -> Scores:
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim != 2 or 0 in scores.shape or np.isnan(scores).any():
        raise ValueError(
            f"{name or 'scores'}: found shape {scores.shape} with {int(np.isnan(scores).sum())} missing; "
            "expected [seeds, items], at least one of each, none missing"
        )
    return scores


@dataclass(frozen=True)
class _ItemPart:
    """The item component of one test set's variance."""

    deviations: Scores
    """[C] sum over a cluster's items of their difference's deviation from the mean."""
    sizes: Scores
    """[C] number of items in each cluster."""
    variance: float
    freedom: int
    seed_noise: tuple[float, float]
    """Variance of one seed's mean due to the interaction of seeds and items, for a and for b."""


def _item_part(first: Scores, second: Scores, clusters: Sequence[object] | None) -> _ItemPart:
    n = first.shape[1]
    names = range(n) if clusters is None else np.asarray(clusters, dtype=str)
    index = np.unique(names, return_inverse=True)[1]
    sizes = np.bincount(index).astype(np.float64)
    items = first.mean(0) - second.mean(0)
    deviations = np.bincount(index, items - items.mean()).astype(np.float64)
    c = len(sizes)
    robust = c / max(1, c - 1) / n**2
    variance, freedom = robust * float(deviations @ deviations), c - 1
    if variance < _ROUNDING:
        # Equal differences do not prove that no others exist: suppose one more cluster in favour of each method, as
        # in Bonett and Price's interval (2012).
        supposed = np.array([items.mean()] * c + [1.0, -1.0])
        variance, freedom = float(supposed.var(ddof=1)) / len(supposed), c + 1
    noise = [robust * _seed_by_cluster(scores, index) for scores in (first, second)]
    return _ItemPart(deviations, sizes, variance, freedom, (noise[0], noise[1]))


def _seed_by_cluster(scores: Scores, index: NDArray[np.intp]) -> float:
    """Sum of the squared cluster sums of the seeds × items residuals, per degree of freedom of the seeds."""
    if len(scores) == 1:
        return 0.0
    residuals = scores - scores.mean(0)
    residuals -= residuals.mean(1, keepdims=True)
    sums = [np.bincount(index, row) for row in residuals]
    return float(np.square(sums).sum()) / (len(scores) - 1)


def _seed_part(pairs: Sequence[tuple[Scores, Scores]], parts: Sequence[_ItemPart]) -> tuple[float, float, float]:
    """Seed component of the variance, without and with the interaction with items, and its degrees of freedom.

    The methods share a trainer, so their variances over seeds are pooled, as in the two-sample t-test.
    """
    squares, noise, shares, freedom = 0.0, 0.0, 0.0, 0
    for side in (0, 1):
        means = np.mean([pair[side].mean(1) for pair in pairs], axis=0)
        if len(means) > 1:
            squares += float(np.square(means - means.mean()).sum())
            noise += (len(means) - 1) * sum(part.seed_noise[side] for part in parts) / len(parts) ** 2
            shares += 1 / len(means)
            freedom += len(means) - 1
    if not freedom:
        return 0.0, 0.0, math.inf
    return max(0.0, squares - noise) / freedom * shares, squares / freedom * shares, freedom


def _widening(noise: Scores, level: float) -> float:
    """Ratio of the ``level`` quantile of |noise| to that of a normal variable of the same variance, at least 1.

    Ratios below 1 are artefacts of the bootstrap's coarse steps with few clusters, and would inflate false claims.
    """
    normal = float(norm.ppf((1 + level) / 2)) * math.sqrt(float(noise @ noise) / len(noise))
    return max(1.0, float(np.quantile(np.abs(noise), level)) / normal)


def _resampled(part: _ItemPart, rng: np.random.Generator, seed: int, position: int, draws: int) -> Scores:
    """Bootstrap deviations of the mean over items, [draws]; whole clusters are resampled."""
    if float(part.deviations @ part.deviations) < _ROUNDING:
        return math.sqrt(part.variance) * rng.standard_normal(draws)
    c = len(part.sizes)
    columns = np.stack([part.deviations, part.sizes], axis=1).astype(np.float32)
    sums = (_resamples(seed, position, c, draws) @ columns).astype(np.float64)
    # The bootstrap's variance is (c − 1)/c times the unbiased one.
    return sums[:, 0] / sums[:, 1] * math.sqrt(c / (c - 1))


@lru_cache(maxsize=16)
def _resamples(seed: int, position: int, clusters: int, draws: int) -> NDArray[np.float32]:
    """Number of times that each cluster is drawn, [draws, C]; test sets at other positions are drawn independently."""
    rng = np.random.default_rng([seed, position])
    counts = rng.multinomial(clusters, np.full(clusters, 1 / clusters), size=draws).astype(np.float32)
    counts.flags.writeable = False
    return counts
