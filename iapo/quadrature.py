"""Where a path is looked at, with which weight, and where once more.

Shapes: A points, B rows.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from iapo.config_method import Quadrature

_GRADE = 1.15
"""Cell borders of the graded rule lie at (j / points) to this power. Of 1, 1.15, 1.25 and 1.4 the one with the smallest
error at 7 points, over five policies of mini."""


def nodes(points: int, quadrature: Quadrature, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Where on [0, 1] the gradient is taken and with which weight, [A] each, float64.

    All but Gauss–Legendre's are the midpoints of cells, whose widths are the weights.
    """
    if quadrature == "gauss_legendre":
        places, weights = np.polynomial.legendre.leggauss(points)
        return torch.as_tensor((places + 1) / 2, device=device), torch.as_tensor(weights / 2, device=device)
    borders = torch.linspace(0, 1, points + 1, dtype=torch.float64, device=device)
    if quadrature == "graded":
        borders = borders**_GRADE
    return (borders[1:] + borders[:-1]) / 2, borders.diff()


def stretch_errors(log_p: Tensor, slopes: Tensor, cells: Tensor) -> Tensor:
    """How far a rule of midpoints is off between neighbouring points, where the whole is known, and up to the ends.

    Args:
        log_p: [A + 2, B] at the start, at the midpoints and at the end.
        slopes: [A, B] its derivative along the path at the midpoints.
        cells: [A] their widths.

    Returns:
        [A + 1, B] nats. To a stretch the rule gives half a cell of the midpoints at its ends.
    """
    halves = cells[:, None] / 2 * slopes
    nothing = torch.zeros_like(halves[:1])
    return (log_p.diff(dim=0) - torch.cat([nothing, halves]) - torch.cat([halves, nothing])).abs()


def points_between(wanted: Tensor, cells: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One point more on some stretches of a rule of midpoints.

    Between midpoints it stands where their cells meet, and makes two trapezoids. In half a cell it stands at a third
    from the path's end, where with the midpoint at the other end it is exact for parabolas (Radau).

    Args:
        wanted: bool [A + 1, B] stretches, as of :func:`stretch_errors`.
        cells: [A] widths.

    Returns:
        Where, nan where none is wanted, [A + 1, B]; the midpoints' weights now, [A, B]; the new points', [A + 1, B].
    """
    nothing = torch.zeros_like(cells[:1])
    before, behind = torch.cat([nothing, cells]), torch.cat([cells, nothing])
    at, gained, given = before.cumsum(0), (before + behind) / 4, torch.full_like(wanted, 1 / 4, dtype=cells.dtype)
    at[0], at[-1] = cells[0] / 6, 1 - cells[-1] / 6
    gained[[0, -1]] = 3 / 8 * cells[[0, -1]]
    given[[0, -1]] = 3 / 8
    # A midpoint gives to the stretches on both sides of it.
    taken = wanted * given
    kept = cells[:, None] * (1 - taken[:-1] - taken[1:])
    return at[:, None].where(wanted, torch.nan), kept, wanted * gained[:, None]
