"""The two components of the variance of a weighted sum of methods' means: items in clusters, and training runs.

Shapes: S seeds, N items of a set, C clusters; scores are arrays [S, N]. What the components mean:
:mod:`benchmarks.stats.paired`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Scores = NDArray[np.float64]
"""Scores [S, N] in [0, 1]."""

ROUNDING = 1e-20
"""Variance below which numbers count as equal up to rounding."""

_MIN_FREEDOM = 1e-3
"""Stands for none: a single cluster says nothing of its own variance."""


Term = tuple[float, Mapping[str, ArrayLike]]
"""A weight, and one method's scores [S, N] by test set."""


def paired_scores(a: ArrayLike, b: ArrayLike, name: str = "scores") -> tuple[Scores, Scores]:
    """Return the scores [S, N] of two methods on the same items.

    Raises:
        ValueError: for different numbers of items or missing scores; the message begins with ``name``.
    """
    first, second = checked_scores(a, name), checked_scores(b, name)
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"{name}: found {first.shape[1]} items against {second.shape[1]}; expected the same")
    return first, second


def checked_scores(values: ArrayLike, name: str) -> Scores:
    """Return scores [S, N] as floats.

    Raises:
        ValueError: for another shape or missing scores; the message begins with ``name``.
    """
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim != 2 or 0 in scores.shape or np.isnan(scores).any():
        raise ValueError(
            f"{name}: found shape {scores.shape} with {int(np.isnan(scores).sum())} missing; "
            "expected [seeds, items], at least one of each, none missing"
        )
    return scores


Weighted = tuple[float, Mapping[str, Scores]]
"""A weight, and one method's checked scores by test set."""


def checked_terms(terms: Sequence[Term]) -> list[Weighted]:
    """Return the terms with their scores as floats.

    Raises:
        ValueError: for different test sets or numbers of items, or missing scores.
    """
    (_, first), *others = terms
    for _, scores in others:
        if scores.keys() != first.keys():
            raise ValueError(f"found sets {sorted(first)} against {sorted(scores)}; expected the same")
        for name in first:
            paired_scores(first[name], scores[name], name or "scores")
    return [
        (weight, {name: checked_scores(scores[name], name or "scores") for name in first}) for weight, scores in terms
    ]


@dataclass(frozen=True)
class Side:
    """Runs whose means vary independently of all other sides'."""

    scores: list[Scores]
    """[S, N] weighted scores of each test set."""
    start_of_seed: NDArray[np.intp]
    """[S] index of the replicate that a seed belongs to."""


def independent_sides(terms: Sequence[Weighted], starts: Sequence[int] | None, *, paired: bool) -> list[Side]:
    """Return one side for each method, or a single one, the weighted sum seed by seed, if seeds are paired.

    Args:
        terms: of equal numbers of seeds if ``paired``; see :func:`by_seed`.
        starts: cold start of each seed [S]; None if each seed counts by itself.
        paired: whether seed s is the same replicate for all methods.
    """
    if paired:
        names = terms[0][1]
        summed = [np.asarray(sum(weight * scores[name] for weight, scores in terms)) for name in names]
        return [Side(summed, _replicates(len(summed[0]), starts))]
    return [
        Side([weight * values for values in scores.values()], _replicates(_n_seeds(scores), starts))
        for weight, scores in terms
    ]


def by_seed(terms: Sequence[Weighted], starts: Sequence[int] | None) -> list[Weighted]:
    """Return the terms with one row for each seed: a method's own, or that of its cold start.

    Args:
        terms: with one run for each seed, for each cold start, or a single one.
        starts: cold start of each seed [S]; None if each seed counts by itself.

    Raises:
        ValueError: for any other number of runs.
    """
    starts = range(max(_n_seeds(scores) for _, scores in terms)) if starts is None else starts
    paired: list[Weighted] = []
    for weight, scores in terms:
        rows = _rows_by_seed(_n_seeds(scores), starts)
        paired.append((weight, {name: values[rows] for name, values in scores.items()}))
    return paired


def _n_seeds(scores: Mapping[str, Scores]) -> int:
    return len(next(iter(scores.values())))


def _rows_by_seed(n: int, starts: Sequence[int]) -> list[int]:
    """Which of a method's n runs belongs to each seed [S]: its own, the one of its cold start, or the only one."""
    if n == len(starts):
        return list(range(n))
    if n in (1, len(set(starts))):
        return [start % n for start in starts]
    raise ValueError(
        f"found {n} runs for {len(starts)} seeds of {len(set(starts))} cold starts; expected one for each seed, one "
        "for each cold start, or a single one"
    )


def _replicates(n: int, starts: Sequence[int] | None) -> NDArray[np.intp]:
    """Index of each run's replicate [n]: its cold start, or itself where runs do not have several starts."""
    if starts is None or len(set(starts[:n])) == 1:
        return np.arange(n)
    return np.unique(list(starts[:n]), return_inverse=True)[1]


@dataclass(frozen=True)
class ItemPart:
    """The item component of a weighted sum's variance."""

    mean: float
    """The weighted sum of the methods' means over the sets."""
    deviations: Scores
    """[C] each cluster's part in the deviation of the mean over the sets."""
    variance: float
    freedom: float
    weights: Scores
    """[items of all sets] part of each item in the mean."""
    index: NDArray[np.intp]
    """[items of all sets] cluster of each item."""
    robust: float
    """C / (C − 1)."""


def item_part(terms: Sequence[Weighted], clusters: Mapping[str, Sequence[object]] | None) -> ItemPart:
    """Return the mean of the weighted sum over the sets, and the part of its variance that stems from the items.

    Args:
        terms: the methods' weights and scores.
        clusters: test set → cluster of each item [N]; each item is its own cluster if None.
    """
    by_set = {name: np.asarray(sum(weight * scores[name].mean(0) for weight, scores in terms)) for name in terms[0][1]}
    names: list[object] = []
    for name, items in by_set.items():
        names += [(name, i) for i in range(len(items))] if clusters is None else list(clusters[name])
    index = np.unique([str(name) for name in names], return_inverse=True)[1]
    # Every set weighs alike, whatever its number of items.
    weights = np.concatenate([np.full(len(items), 1 / len(items) / len(by_set)) for items in by_set.values()])
    centred = np.concatenate([items - items.mean() for items in by_set.values()])
    deviations = np.bincount(index, weights * centred).astype(np.float64)
    c = len(deviations)
    robust = c / max(1, c - 1)
    variance = robust * float(deviations @ deviations) + _supposed(list(by_set.values()))
    freedom = _effective(np.bincount(index, weights).astype(np.float64))
    if float(deviations @ deviations) < ROUNDING:
        freedom += 2  # of the two supposed items
    mean = float(np.mean([items.mean() for items in by_set.values()]))
    return ItemPart(mean, deviations, variance, freedom, weights, index, robust)


def _supposed(differences: Sequence[Scores]) -> float:
    """Variance of the sets in which all items differ alike.

    Equal differences do not prove that no others exist: suppose one more item in favour of each method, as in Bonett
    and Price's interval (2012).
    """
    alike = [np.append(items, [1.0, -1.0]) for items in differences if np.ptp(items) < ROUNDING]
    return sum(float(supposed.var(ddof=1)) / len(supposed) for supposed in alike) / len(differences) ** 2


def _effective(weights: Scores) -> float:
    """Degrees of freedom of clusters of unequal weights [C]: as many as of equal ones with the same spread.

    The variance of a sum of squares whose terms grow with the square of the weight (Satterthwaite 1946).
    """
    squares = np.square(weights)
    return max(_MIN_FREEDOM, float(squares.sum() ** 2 / (squares @ squares)) - 1)


def seed_part(sides: Sequence[Side], items: ItemPart) -> tuple[float, float, float]:
    """Seed component of the variance, without and with the interaction with items; its degrees of freedom (Welch).

    A squared variance of n replicates is (n + 1)/(n − 1) times too large on average; dividing by n + 1 in place of
    n − 1, and taking 2 off the sum, corrects for it (Welch 1947). Without, few runs a method claim differences too
    rarely.
    """
    variance, noisy, squares = 0.0, 0.0, 0.0
    for side in sides:
        replicates = np.bincount(side.start_of_seed)
        if len(replicates) == 1:
            continue
        means = np.mean([scores.mean(1) for scores in side.scores], axis=0)
        robust = len(replicates) / (len(replicates) - 1)
        deviations = np.bincount(side.start_of_seed, means - means.mean()) / len(means)
        spread = robust * float(deviations @ deviations)
        variance += max(0.0, spread - robust * _interaction(side, items))
        noisy += spread
        squares += spread**2 / (_effective(replicates.astype(np.float64)) + 2)
    if squares < ROUNDING**2:
        return variance, noisy, math.inf
    return variance, noisy, noisy**2 / squares - 2


def _interaction(side: Side, items: ItemPart) -> float:
    """Sum of squares of the mean over seeds that stems from how replicates do on particular items alone."""
    residuals = np.concatenate([s - s.mean(0) - (s - s.mean(0)).mean(1, keepdims=True) for s in side.scores], axis=1)
    weighted = items.weights * residuals / len(residuals)
    by_replicate = np.zeros((side.start_of_seed.max() + 1, weighted.shape[1]))
    np.add.at(by_replicate, side.start_of_seed, weighted)
    return items.robust * float(np.square([np.bincount(items.index, row) for row in by_replicate]).sum())
