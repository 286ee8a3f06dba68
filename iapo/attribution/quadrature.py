"""Quadrature along the path from baseline to input: the points, their weights, and where to add points.

The default rules are midpoint rules, whose error can be measured locally: the log-probability at the points is known,
so the integral of its derivative between two neighbouring points can be checked, and refined where it is off.

Shapes: A points, B rows.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from iapo.config.method import Quadrature

MIN_DELTA = 0.5
"""Smallest denominator of the convergence delta, nats."""


def completeness_error(sums: Tensor, delta: Tensor) -> Tensor:
    """Return how far attributions are from adding up to the change in log-probability, relative to that change.

    Args:
        sums: [B, N] attributions of a row's parts, nats.
        delta: [B] what they should add up to, nats.

    Returns:
        [B], no unit; changes smaller than :data:`MIN_DELTA` count as that.
    """
    return (sums.sum(1) - delta).abs() / delta.abs().clamp(min=MIN_DELTA)


_GRADE = 1.15
"""Exponent of the graded rule: cell j of A begins at (j / A) to this power. Of 1, 1.15, 1.25 and 1.4 it had the
smallest error at 7 points on the policies of the ``mini`` profile."""


def nodes(points: int, quadrature: Quadrature, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Return the points on [0, 1] at which the gradient is taken, and their weights.

    Args:
        points: A.
        quadrature: ``midpoint`` takes the midpoints of equal cells and ``graded`` of cells that are narrower near the
            baseline; a cell's width is its weight. ``gauss_legendre`` takes the Gauss–Legendre rule.
        device: of the result.

    Returns:
        Points and weights, [A] each, float64; the weights add up to 1.
    """
    if quadrature == "gauss_legendre":
        x, weights = np.polynomial.legendre.leggauss(points)
        return torch.as_tensor((x + 1) / 2, device=device), torch.as_tensor(weights / 2, device=device)
    borders = torch.linspace(0, 1, points + 1, dtype=torch.float64, device=device)
    if quadrature == "graded":
        borders = borders**_GRADE
    return (borders[1:] + borders[:-1]) / 2, borders.diff()


def stretch_errors(log_p: Tensor, slopes: Tensor, cells: Tensor) -> Tensor:
    """Return the error of a midpoint rule on each stretch of the path.

    A stretch lies between two neighbouring midpoints, or between the first or last midpoint and the path's end. The
    rule's estimate on it is half a cell of each midpoint that bounds it; the exact value is the difference of log_p.

    Args:
        log_p: [A + 2, B] log-probability at the path's start, at the midpoints and at its end, nats.
        slopes: [A, B] its derivative along the path at the midpoints.
        cells: [A] widths of the midpoints' cells.

    Returns:
        [A + 1, B] absolute errors, nats.
    """
    halves = cells[:, None] / 2 * slopes
    zero = torch.zeros_like(halves[:1])
    return (log_p.diff(dim=0) - torch.cat([zero, halves]) - torch.cat([halves, zero])).abs()


def points_between(wanted: Tensor, cells: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Add one point on each wanted stretch of a midpoint rule.

    Between two midpoints the new point is where their cells meet, and the stretch becomes two trapezoids. On the
    half-cell at an end of the path it is a third of the way from that end: together with the midpoint this is the
    two-point Radau rule, exact for parabolas.

    Args:
        wanted: bool [A + 1, B] stretches, as in :func:`stretch_errors`.
        cells: [A] widths of the midpoints' cells.

    Returns:
        The new points [A + 1, B], nan where none is wanted; the midpoints' new weights [A, B]; the new points'
        weights [A + 1, B], 0 where none is wanted.
    """
    zero = torch.zeros_like(cells[:1])
    before, behind = torch.cat([zero, cells]), torch.cat([cells, zero])
    alphas, new_weights = before.cumsum(0), (before + behind) / 4
    # Share of its cell's width that a midpoint cedes to the new point on one side of it.
    ceded = torch.full_like(wanted, 1 / 4, dtype=cells.dtype)
    alphas[0], alphas[-1] = cells[0] / 6, 1 - cells[-1] / 6
    new_weights[[0, -1]] = 3 / 8 * cells[[0, -1]]
    ceded[[0, -1]] = 3 / 8
    # A midpoint cedes to the stretches on both sides of it.
    taken = wanted * ceded
    old_weights = cells[:, None] * (1 - taken[:-1] - taken[1:])
    return alphas[:, None].where(wanted, torch.nan), old_weights, wanted * new_weights[:, None]
