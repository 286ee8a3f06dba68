"""Where a path is looked at, with which weight, and where once more.

Shapes: A points, B rows.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def nodes(points: int, quadrature: str, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Where on [0, 1] the gradient is taken and with which weight, [A] each, float64."""
    if quadrature == "gauss_legendre":
        places, weights = np.polynomial.legendre.leggauss(points)
        return torch.as_tensor((places + 1) / 2, device=device), torch.as_tensor(weights / 2, device=device)
    at = (torch.arange(points, dtype=torch.float64, device=device) + 0.5) / points
    return at, torch.full_like(at, 1 / points)


def stretch_errors(log_p: Tensor, slopes: Tensor) -> Tensor:
    """How far the midpoint rule is off between neighbouring points, where the whole is known, and up to the ends.

    Args:
        log_p: [A + 2, B] at the start, at the midpoints and at the end.
        slopes: [A, B] its derivative along the path at the midpoints.

    Returns:
        [A + 1, B] nats. The rule is a sum of trapezoids between its points and of half a cell at either end.
    """
    half = 0.5 / len(slopes)
    nothing = torch.zeros_like(slopes[:1])
    rule = half * (torch.cat([nothing, slopes]) + torch.cat([slopes, nothing]))
    return (log_p.diff(dim=0) - rule).abs()


def points_between(wanted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One point more on some stretches of the midpoint rule.

    Between midpoints it halves the trapezoid. In half a cell it stands at a third from the path's end, where with the
    midpoint at the other end it is exact for parabolas (Radau).

    Args:
        wanted: bool [A + 1, B] stretches, as of :func:`stretch_errors`.

    Returns:
        Where, nan where none is wanted, [A + 1, B]; the midpoints' weights now, [A, B]; the new points', [A + 1, B].
    """
    points = len(wanted) - 1
    cell = 1 / points
    at = torch.arange(points + 1, dtype=torch.float64, device=wanted.device) * cell
    at[0], at[-1] = cell / 6, 1 - cell / 6
    gained, lost = torch.full_like(at, cell / 2), torch.full_like(at, cell / 4)
    gained[[0, -1]] = lost[[0, -1]] = 3 / 8 * cell
    # A midpoint gives to the stretches on both sides of it.
    taken = wanted * lost[:, None]
    kept = cell - taken[:-1] - taken[1:]
    return at[:, None].where(wanted, torch.nan), kept, wanted * gained[:, None]
