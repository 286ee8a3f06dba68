"""McNemar's test over items."""

from __future__ import annotations

from dataclasses import dataclass

from numpy.typing import ArrayLike
from scipy.stats import binomtest

from benchmarks.stats.components import paired_scores


@dataclass(frozen=True)
class McNemar:
    """Numbers of items that only one of two methods answers correctly, and the exact two-sided p-value."""

    only_a: int
    only_b: int
    p: float


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
    first, second = paired_scores(a, b)
    right_a, right_b = first.mean(0), second.mean(0)
    only_a = int(((right_a > 0.5) & (right_b < 0.5)).sum())
    only_b = int(((right_a < 0.5) & (right_b > 0.5)).sum())
    p = float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    return McNemar(only_a, only_b, p)
