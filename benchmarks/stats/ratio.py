"""The ratio of two contrasts of methods, such as the share of an oracle's gain that a method has, with its interval."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.stats import t as student

from benchmarks.stats.paired import PairedDifference, linear_contrast


@dataclass(frozen=True)
class Ratio:
    """An estimate with its confidence interval, which need not be symmetric."""

    value: float
    low: float
    high: float


def ratio_of_contrasts(
    scores: Mapping[str, Mapping[str, ArrayLike]],
    numerator: Mapping[str, float],
    denominator: Mapping[str, float],
    *,
    clusters: Mapping[str, Sequence[object]] | None = None,
    starts: Sequence[int] | None = None,
    paired_seeds: bool = False,
    level: float = 0.95,
    seed: int = 0,
    draws: int = 4000,
) -> Ratio:
    """Return the ratio of two weighted sums of accuracies over items and seeds, with Fieller's interval (1954).

    The interval holds the ratios r at which ``numerator - r * denominator`` is not found different from 0, so methods
    that are part of both sums count as correlated.

    Args:
        scores: method → test set → scores [S, N].
        numerator: method → weight.
        denominator: method → weight; the sum must differ significantly from 0, or the interval has no end.
        clusters: as for :func:`benchmarks.stats.paired.linear_contrast`.
        starts: the same.
        paired_seeds: the same.
        level: confidence level of the interval.
        seed: seed of the bootstrap.
        draws: number of bootstrap resamples.

    Raises:
        ValueError: if the denominator is not found different from 0.
    """

    def contrast(weights: Mapping[str, float]) -> PairedDifference:
        return linear_contrast(
            [(weight, scores[name]) for name, weight in weights.items()],
            clusters=clusters,
            starts=starts,
            paired_seeds=paired_seeds,
            level=level,
            seed=seed,
            draws=draws,
        )

    below = contrast(denominator)
    if below.p >= 1 - level:
        raise ValueError(f"found a denominator of {below.delta:.4f} with p={below.p:.3f}; expected one other than 0")
    value = contrast(numerator).delta / below.delta

    def excess(ratio: float) -> float:
        weights = {
            name: numerator.get(name, 0.0) - ratio * denominator.get(name, 0.0) for name in {**numerator, **denominator}
        }
        found = contrast(weights)
        return abs(found.delta) - float(student.ppf((1 + level) / 2, found.freedom)) * found.standard_error

    step = below.standard_error / abs(below.delta)
    return Ratio(value, _end(excess, value, -step), _end(excess, value, step))


def share_columns(share: Ratio | str) -> dict[str, object]:
    """Return a table's columns on a share of the oracle's gain: its value and interval, or nan and why there is none.

    Args:
        share: the share, or the reason.
    """
    value, low, high = (math.nan,) * 3 if isinstance(share, str) else (share.value, share.low, share.high)
    reason = share if isinstance(share, str) else ""
    return {"oracle_share": value, "oracle_share_low": low, "oracle_share_high": high, "oracle_share_reason": reason}


_DOUBLINGS = 20


def _end(excess: Callable[[float], float], value: float, step: float) -> float:
    """Return where ``excess`` turns positive on one side of the estimate, to four digits."""
    inside = value
    for _ in range(_DOUBLINGS):
        if excess(value + step) > 0:
            return float(brentq(excess, inside, value + step, xtol=1e-4))
        inside, step = value + step, 2 * step
    return inside
