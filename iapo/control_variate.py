"""Sums over a path's points that add up to what is known exactly.

The parts of a call's attribution add up to the difference of its log-probability between the path's ends. Whatever
the points miss of that difference is known, and so it serves each part as a control variate (Lavenberg & Welch 1981).

Shapes: A path points, B rows, N parts of a row (tokens or blocks).
"""

from __future__ import annotations

import torch
from torch import Tensor

_LEAST_VARIATION = 1e-8
"""Relative variance along the path below which nothing is corrected: what varies so little has no error either."""


def moments(products: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums over the points of the parts, and of the parts times the whole.

    Args:
        products: [A, …, N] gradient · difference of each part at each point.
        weights: [A] of the quadrature, or [A, B] of each row; they add up to 1 over all points.

    Returns:
        [2, …, N]; those of several sets of points add up.
    """
    whole = products.sum(-1, keepdim=True)
    weights = weights.to(products).view(*weights.shape, *[1] * (products.dim() - weights.dim()))
    return torch.stack([(weights * products).sum(0), (weights * products * whole).sum(0)])


def completed(found: Tensor, delta: Tensor) -> Tensor:
    """What the points miss of the whole goes to each part by its regression on the whole over the points.

    The regression's slopes add up to 1, so the parts add up to ``delta``.

    Args:
        found: [2, B, N] :func:`moments` of all points.
        delta: [B] what the parts add up to.

    Returns:
        [B, N]; a row whose whole does not vary along the path is left as it is.
    """
    sums, with_whole = found
    whole = sums.sum(-1, keepdim=True)
    covariance = with_whole - sums * whole
    variance = covariance.sum(-1, keepdim=True)
    varies = variance > _LEAST_VARIATION * whole.square()
    slope = covariance / variance.where(varies, 1.0) * varies
    return sums + slope * (delta[:, None] - whole)
