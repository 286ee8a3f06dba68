"""Paired differences of methods over items, clusters of items and training runs: interval, p-value, power.

Shapes: K test sets, S seeds, N items of a set, C clusters; scores are arrays [S, N] in [0, 1].

The variance of a difference has two components. *Items* come in clusters, such as the questions that ask for one label,
which may lie in several test sets: their component is the cluster-robust variance of the mean over the sets. *Seeds*
are training runs: their component is each method's own variance of its runs' means (Welch), since one method's runs may
lie much further apart than another's. Both contain the interaction of seeds and items (the noise with which one run
answers particular items); it is estimated from the residuals of items × seeds and counted once. As few seeds and few
clusters estimate a variance poorly, tests and intervals use Student's t with Welch–Satterthwaite degrees of freedom.
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

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm
from scipy.stats import t as student

Scores = NDArray[np.float64]
"""Scores [S, N] in [0, 1]."""

_ROUNDING = 1e-20
"""Variance below which numbers count as equal up to rounding."""

_MIN_FREEDOM = 1e-3
"""Stands for none: a single cluster says nothing of its own variance."""


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

    def is_equivalent(self, margin: float, level: float = 0.95) -> bool:
        """Whether the true difference lies within ±margin, by two one-sided tests (Schuirmann 1987).

        Args:
            margin: largest difference that does not matter, in the unit of the scores.
            level: confidence level of each one-sided test.
        """
        return abs(self.delta) + float(student.ppf(level, self.freedom)) * self.standard_error < margin

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
        level: confidence level of the interval.
        seed: seed of the bootstrap.
        draws: number of bootstrap resamples.

    Raises:
        ValueError: for different test sets or numbers of items, or missing scores.
    """
    if a.keys() != b.keys():
        raise ValueError(f"found sets {sorted(a)} against {sorted(b)}; expected the same")
    pairs = {name: paired_scores(a[name], b[name], name or "scores") for name in a}
    items = _item_part(pairs, clusters)
    seeds, noisy_seeds, seeds_freedom = _seed_part(pairs, items)
    # Subtracting the interaction makes the seed component no more precise, so its noisy estimate sets the freedom.
    freedom = (items.variance + seeds) ** 2 / (items.variance**2 / items.freedom + noisy_seeds**2 / seeds_freedom)
    freedom = max(freedom, min(items.freedom, seeds_freedom))

    rng = np.random.default_rng(seed)
    noise = _resampled(items, rng, seed, draws) + math.sqrt(seeds) * rng.standard_normal(draws)
    error = math.sqrt(items.variance + seeds) * _widening(noise, level)
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


def paired_scores(a: ArrayLike, b: ArrayLike, name: str = "scores") -> tuple[Scores, Scores]:
    """Return the scores [S, N] of two methods on the same items.

    Raises:
        ValueError: for different numbers of items or missing scores; the message begins with ``name``.
    """
    first, second = _scores(a, name), _scores(b, name)
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"{name}: found {first.shape[1]} items against {second.shape[1]}; expected the same")
    return first, second


def _scores(values: ArrayLike, name: str) -> Scores:
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim != 2 or 0 in scores.shape or np.isnan(scores).any():
        raise ValueError(
            f"{name}: found shape {scores.shape} with {int(np.isnan(scores).sum())} missing; "
            "expected [seeds, items], at least one of each, none missing"
        )
    return scores


@dataclass(frozen=True)
class _ItemPart:
    """The item component of a difference's variance."""

    deviations: Scores
    """[C] each cluster's part in the deviation of the mean over the sets."""
    variance: float
    freedom: float
    seed_noise: tuple[float, float]
    """Variance of one seed's mean due to the interaction of seeds and items, for a and for b."""


def _item_part(
    pairs: Mapping[str, tuple[Scores, Scores]], clusters: Mapping[str, Sequence[object]] | None
) -> _ItemPart:
    names: list[object] = []
    for name, (first, _) in pairs.items():
        names += [(name, i) for i in range(first.shape[1])] if clusters is None else list(clusters[name])
    index = np.unique([str(name) for name in names], return_inverse=True)[1]
    # Every set weighs alike, whatever its number of items.
    weights = np.concatenate([np.full(first.shape[1], 1 / first.shape[1] / len(pairs)) for first, _ in pairs.values()])
    differences = [first.mean(0) - second.mean(0) for first, second in pairs.values()]
    centred = np.concatenate([items - items.mean() for items in differences])
    deviations = np.bincount(index, weights * centred).astype(np.float64)
    c = len(deviations)
    robust = c / max(1, c - 1)
    variance = robust * float(deviations @ deviations) + _supposed(differences)
    freedom = _effective(np.bincount(index, weights).astype(np.float64))
    if float(deviations @ deviations) < _ROUNDING:
        freedom += 2  # of the two supposed items
    noise = [robust * _interaction([pair[side] for pair in pairs.values()], weights, index) for side in (0, 1)]
    return _ItemPart(deviations, variance, freedom, (noise[0], noise[1]))


def _supposed(differences: Sequence[Scores]) -> float:
    """Variance of the sets in which all items differ alike.

    Equal differences do not prove that no others exist: suppose one more item in favour of each method, as in Bonett
    and Price's interval (2012).
    """
    alike = [np.append(items, [1.0, -1.0]) for items in differences if np.ptp(items) < _ROUNDING]
    return sum(float(supposed.var(ddof=1)) / len(supposed) for supposed in alike) / len(differences) ** 2


def _effective(weights: Scores) -> float:
    """Degrees of freedom of clusters of unequal weights [C]: as many as of equal ones with the same spread.

    The variance of a sum of squares whose terms grow with the square of the weight (Satterthwaite 1946).
    """
    squares = np.square(weights)
    return max(_MIN_FREEDOM, float(squares.sum() ** 2 / (squares @ squares)) - 1)


def _interaction(scores: Sequence[Scores], weights: Scores, index: NDArray[np.intp]) -> float:
    """Variance of a seed's mean over the sets that stems from how it does on particular items alone."""
    n_seeds = len(scores[0])
    if n_seeds == 1:
        return 0.0
    residuals = np.concatenate([s - s.mean(0) - (s - s.mean(0)).mean(1, keepdims=True) for s in scores], axis=1)
    sums = [np.bincount(index, weights * row) for row in residuals]
    return float(np.square(sums).sum()) / (n_seeds - 1)


def _seed_part(pairs: Mapping[str, tuple[Scores, Scores]], items: _ItemPart) -> tuple[float, float, float]:
    """Seed component of the variance, without and with the interaction with items; its degrees of freedom (Welch).

    A squared variance of n runs is (n + 1)/(n − 1) times too large on average; dividing by n + 1 in place of n − 1, and
    taking 2 off the sum, corrects for it (Welch 1947). Without, few runs a method claim differences too rarely.
    """
    variance, noisy, squares = 0.0, 0.0, 0.0
    for side in (0, 1):
        means = np.mean([pair[side].mean(1) for pair in pairs.values()], axis=0)
        if len(means) > 1:
            spread = float(means.var(ddof=1)) / len(means)
            variance += max(0.0, spread - items.seed_noise[side] / len(means))
            noisy += spread
            squares += spread**2 / (len(means) + 1)
    if squares < _ROUNDING**2:
        return variance, noisy, math.inf
    return variance, noisy, noisy**2 / squares - 2


def _widening(noise: Scores, level: float) -> float:
    """Ratio of the ``level`` quantile of |noise| to that of a normal variable of the same variance, at least 1.

    Ratios below 1 are artefacts of the bootstrap's coarse steps with few clusters, and would inflate false claims.
    """
    normal = float(norm.ppf((1 + level) / 2)) * math.sqrt(float(noise @ noise) / len(noise))
    return max(1.0, float(np.quantile(np.abs(noise), level)) / normal)


def _resampled(items: _ItemPart, rng: np.random.Generator, seed: int, draws: int) -> Scores:
    """Bootstrap deviations of the mean over the sets, [draws]; whole clusters are resampled."""
    if float(items.deviations @ items.deviations) < _ROUNDING:
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
