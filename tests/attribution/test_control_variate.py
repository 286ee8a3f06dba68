"""The correction of a path's sums by their known total."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from iapo.attribution.control_variate import apply_control_variate, moments
from iapo.attribution.quadrature import nodes


def random_products(points: int, rows: int, parts: int) -> Tensor:
    return torch.randn(points, rows, parts, dtype=torch.float64, generator=torch.Generator().manual_seed(points))


def test_each_part_follows_its_regression_on_the_whole() -> None:
    products, (_, weights) = random_products(9, 3, 4), nodes(9, "midpoint")
    delta = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    found = apply_control_variate(moments(products, weights), delta)
    for row in range(3):
        whole = products[:, row].sum(-1).numpy()
        for part in range(4):
            slope, intercept = np.polyfit(whole, products[:, row, part].numpy(), 1)
            assert abs(found[row, part].item() - (slope * delta[row].item() + intercept)) < 1e-9
    assert torch.allclose(found.sum(1), delta, atol=1e-12)


def test_points_in_several_pieces_are_the_same_points() -> None:
    products, weights = random_products(8, 2, 5), torch.rand(8, dtype=torch.float64)
    pieces = moments(products[:3], weights[:3]) + moments(products[3:], weights[3:])
    assert torch.allclose(pieces, moments(products, weights), atol=1e-12)


def test_parts_in_proportion_to_the_whole_become_exact() -> None:
    # Two points miss much of ∫ e^{5a} da; the parts' shares are the same everywhere.
    alphas, weights = nodes(2, "midpoint")
    shares = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    products = (5 * alphas).exp()[:, None, None] * shares
    delta = torch.tensor([5.0], dtype=torch.float64).exp().sub(1).div(5)
    assert torch.allclose(apply_control_variate(moments(products, weights), delta)[0], delta * shares, atol=1e-12)


def test_a_whole_that_does_not_vary_is_left_alone() -> None:
    products = torch.tensor([2.0, -1.0], dtype=torch.float64).expand(4, 2, 2)
    weights = torch.full((4,), 0.25, dtype=torch.float64)
    found = apply_control_variate(moments(products, weights), torch.tensor([3.0, 0.0], dtype=torch.float64))
    assert torch.equal(found, products[0])
