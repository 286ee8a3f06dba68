"""Control variate for integrated gradients: correct the attributions so that they add up to the known total.

The attributions of a call's parts add up to the change in its log-probability from baseline to input (completeness).
That change is known from two forward passes, so the quadrature error of the total is known too, and serves as a
control variate (Lavenberg & Welch 1981) for each part.

Shapes: A path points, B rows, N parts of a row (tokens or blocks).
"""

from __future__ import annotations

import torch
from torch import Tensor

_MIN_VARIATION = 1e-8
"""Variance of the total along the path, relative to its square, below which a row is left uncorrected: an integrand
that is nearly constant has no quadrature error."""


def moments(products: Tensor, weights: Tensor) -> Tensor:
    """Integrate each part, and each part times the total of all parts, over the path's points.

    Args:
        products: [A, …, N] gradient · difference of each part at each point, nats per unit of the path.
        weights: quadrature weights, [A], or [A, B] where rows differ; they add up to 1 over all points.

    Returns:
        [2, …, N]. Moments of disjoint sets of points may be added.
    """
    total = products.sum(-1, keepdim=True)
    weights = weights.to(products).view(*weights.shape, *[1] * (products.dim() - weights.dim()))
    return torch.stack([(weights * products).sum(0), (weights * products * total).sum(0)])


def apply_control_variate(integrals: Tensor, delta: Tensor) -> Tensor:
    """Distribute the total's quadrature error over the parts.

    Each part gets the share given by its regression on the total over the path's points. The regression slopes add up
    to 1, so the corrected parts add up to ``delta``.

    Args:
        integrals: [2, B, N] :func:`moments` over all points.
        delta: [B] log-probability of the call on the input minus on the baseline, nats.

    Returns:
        [B, N] nats; a row whose total does not vary along the path is left as it is.
    """
    sums, products_with_total = integrals
    total = sums.sum(-1, keepdim=True)
    covariance = products_with_total - sums * total
    variance = covariance.sum(-1, keepdim=True)
    varies = variance > _MIN_VARIATION * total.square()
    slope = covariance / variance.where(varies, 1.0) * varies
    return sums + slope * (delta[:, None] - total)
