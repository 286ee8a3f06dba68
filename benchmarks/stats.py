"""Intervals for accuracies and for paired differences over items and seeds.

Scores are arrays [S seeds, N items] in [0, 1]. Two sources of error are kept apart: items (or clusters
of items that share a figure) are resampled; seeds are too few to resample (three of them understate
their variance by a third and know nothing of tails), so their mean's error is drawn from Student's t.
Everything random comes from one seeded ``numpy.random.Generator``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm

Scores = NDArray[np.float64]
_ROWS_AT_ONCE = 256
"""Bootstrap draws in memory together."""


@dataclass(frozen=True)
class PairedDifference:
    """Mean of a minus mean of b, its interval and two-sided p-value."""

    delta: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class MacroAverage:
    """Unweighted mean over sets."""

    mean: float
    low: float
    high: float
    standard_error: float
    """√Σ se² / number of sets, of the items alone."""


def wilson(k: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval for a proportion.

    Args:
        k: successes; may be fractional, such as a mean over seeds.
        n: trials.
        level: confidence.

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


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    *,
    clusters: Sequence[object] | None = None,
    level: float = 0.95,
    seed: int = 0,
    draws: int = 4000,
) -> PairedDifference:
    """How much better a is than b on the same items.

    Args:
        a: [S, N] scores.
        b: [S', N] scores; the numbers of seeds may differ (a policy without training has one).
        clusters: [N] what an item shares with others (its figure); every item alone when absent.
        level: confidence of the interval.
        seed: of the bootstrap.
        draws: resamples.

    Raises:
        ValueError: for different items or missing scores.
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
    """The same for the unweighted mean over sets; a seed is one training run behind all of them.

    Args:
        a: set → [S, N] scores.
        b: set → [S', N] scores.
        clusters: set → [N].
        level: confidence.
        seed: of the bootstrap.
        draws: resamples.
    """
    if a.keys() != b.keys():
        raise ValueError(f"found sets {sorted(a)} against {sorted(b)}; expected the same")
    rng = np.random.default_rng(seed)
    pairs = {name: (_scores(a[name], name), _scores(b[name], name)) for name in a}
    noise = np.zeros(draws)
    deltas = []
    for name, (first, second) in pairs.items():
        if first.shape[1] != second.shape[1]:
            raise ValueError(
                f"{name or 'scores'}: found {first.shape[1]} items against {second.shape[1]}; expected the same"
            )
        items = first.mean(0) - second.mean(0)
        deltas.append(items.mean())
        noise += _item_noise(items, clusters[name] if clusters else None, rng, draws)
    noise /= len(pairs)
    noise += _seed_noise([_per_seed(pairs, 0), _per_seed(pairs, 1)], rng, draws)
    delta = float(np.mean(deltas))
    low, high = delta + np.quantile(noise, [(1 - level) / 2, (1 + level) / 2])
    as_extreme = int((np.abs(noise) >= abs(delta)).sum())
    return PairedDifference(delta, float(low), float(high), (1 + as_extreme) / (1 + draws))


def macro_average(
    scores: Mapping[str, ArrayLike],
    *,
    clusters: Mapping[str, Sequence[object]] | None = None,
    level: float = 0.95,
    seed: int = 0,
    draws: int = 4000,
) -> MacroAverage:
    """Unweighted mean over sets with an interval over items and seeds.

    Args:
        scores: set → [S, N].
        clusters: set → [N].
        level: confidence.
        seed: of the bootstrap.
        draws: resamples.
    """
    nothing = {name: np.zeros((1, np.shape(values)[1])) for name, values in scores.items()}
    result = macro_paired_difference(scores, nothing, clusters=clusters, level=level, seed=seed, draws=draws)
    squared = [_scores(values, name).mean(0).var(ddof=1) / np.shape(values)[1] for name, values in scores.items()]
    error = math.sqrt(sum(squared)) / len(squared)
    return MacroAverage(result.delta, max(0.0, result.low), min(1.0, result.high), error)


def _scores(values: ArrayLike, name: str) -> Scores:
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim != 2 or 0 in scores.shape or np.isnan(scores).any():
        raise ValueError(
            f"{name or 'scores'}: found shape {scores.shape} with {int(np.isnan(scores).sum())} missing; "
            "expected [seeds, items], at least one of each, none missing"
        )
    return scores


def _per_seed(pairs: Mapping[str, tuple[Scores, Scores]], side: int) -> Scores:
    """Each seed's mean over the sets, [S]."""
    means = np.mean([pair[side].mean(1) for pair in pairs.values()], axis=0)
    return np.asarray(means, dtype=np.float64)


def _item_noise(items: Scores, clusters: Sequence[object] | None, rng: np.random.Generator, draws: int) -> Scores:
    """Bootstrap deviations of the mean over items, [draws]; clusters are drawn whole."""
    if clusters is None:
        sums: Scores = items
        sizes: Scores = np.ones_like(items)
    else:
        _, index = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
        sums = np.bincount(index, items).astype(np.float64)
        sizes = np.bincount(index).astype(np.float64)
    n = len(sums)
    means = []
    for start in range(0, draws, _ROWS_AT_ONCE):
        rows = min(_ROWS_AT_ONCE, draws - start)
        weights = rng.multinomial(n, np.full(n, 1 / n), size=rows)
        means.append((weights @ sums) / (weights @ sizes))
    # The bootstrap's variance is (n-1)/n of the unbiased one.
    return (np.concatenate(means) - items.mean()) * math.sqrt(n / max(1, n - 1))


def _seed_noise(per_seed: Sequence[Scores], rng: np.random.Generator, draws: int) -> Scores:
    """Draws of the error that comes from having few seeds, [draws].

    The methods share a trainer, so their spread over seeds is pooled, as in the two-sample t-test. A method
    with one seed adds nothing: its spread is unknown (a policy without training has none).
    """
    repeated = [means for means in per_seed if len(means) > 1]
    freedom = sum(len(means) - 1 for means in repeated)
    if not freedom:
        return np.zeros(draws)
    variance = sum(float(((means - means.mean()) ** 2).sum()) for means in repeated) / freedom
    error = math.sqrt(variance * sum(1 / len(means) for means in repeated))
    return error * rng.standard_t(freedom, draws)
