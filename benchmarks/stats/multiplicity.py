"""Corrections of p-values for several comparisons: of one family, and of a sequence that was fixed beforehand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for multiple comparisons (Holm 1979), which controls the family-wise error rate.

    Args:
        p_values: p-values of one family; NaN where nothing was compared, which stays NaN and is not counted.

    Returns:
        Adjusted p-values in the order given, at most 1.

    Raises:
        ValueError: for a p-value outside [0, 1].
    """
    p = _checked(p_values)
    compared = np.flatnonzero(~np.isnan(p))
    rising = compared[np.argsort(p[compared], kind="stable")]
    adjusted = np.full_like(p, np.nan)
    adjusted[rising] = np.minimum(1, np.maximum.accumulate(p[rising] * np.arange(len(rising), 0, -1)))
    return [float(each) for each in adjusted]


def bonferroni(p_values: Sequence[float], families: int) -> list[float]:
    """Adjust p-values that hold within one of several families for the number of the families, at most 1; NaN stays.

    Args:
        p_values: adjusted within their family.
        families: number of families that are tested alike, this one included.

    Raises:
        ValueError: for a p-value outside [0, 1].
    """
    return [float(each) for each in np.minimum(1, families * _checked(p_values))]


def fixed_sequence(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values of comparisons that are made in an order fixed beforehand, each only if all before it succeed.

    Every one is then tested at the full level, which controls the family-wise error rate (Maurer, Hothorn and Lehmacher
    1995).

    Args:
        p_values: in the order of the sequence; NaN where nothing was compared, which ends the sequence.

    Returns:
        Adjusted p-values: the largest so far; NaN from the first NaN on.

    Raises:
        ValueError: for a p-value outside [0, 1].
    """
    return [float(each) for each in np.maximum.accumulate(_checked(p_values))]


def _checked(p_values: Sequence[float]) -> NDArray[np.float64]:
    p = np.asarray(p_values, dtype=np.float64)
    if ((p < 0) | (p > 1)).any():
        raise ValueError(f"found p-values {p[(p < 0) | (p > 1)].tolist()}; expected them in [0, 1]")
    return p
