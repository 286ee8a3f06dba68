"""Points and weights of the path integral, and what refining them adds."""

import pytest
import torch

from iapo.attribution.quadrature import nodes, points_between, stretch_errors
from iapo.config.method import Quadrature


@pytest.mark.parametrize("points", [1, 2, 7])
def test_graded_cells_narrow_towards_the_baseline(points: int) -> None:
    places, cells = nodes(points, "graded")
    assert (cells.diff() > 0).all() and cells.sum().item() == pytest.approx(1)
    assert torch.allclose(places, cells.cumsum(0) - cells / 2)
    assert (cells * places).sum().item() == pytest.approx(1 / 2)


@pytest.mark.parametrize("points", [1, 2, 7])
@pytest.mark.parametrize("quadrature", ["midpoint", "graded"])
def test_points_between_midpoints_leave_a_rule_that_is_exact_for_straight_lines(
    points: int, quadrature: Quadrature
) -> None:
    places, cells = nodes(points, quadrature)
    wanted = torch.rand(points + 1, 50, generator=torch.Generator().manual_seed(points)) > 0.5
    # Half cells err by the same to either side.
    wanted[-1] = wanted[0]
    wanted[:, 0] = True
    added, kept, weights = points_between(wanted, cells)
    assert (added.isnan() == ~wanted).all() and (weights[~wanted] == 0).all()
    for power in (0, 1):
        sums = (kept * places[:, None] ** power).sum(0) + (weights * added.nan_to_num() ** power).sum(0)
        # Unequal cells err by the same to either side only where all are halved.
        exact = sums if power == 0 or quadrature == "midpoint" else sums[:1]
        assert torch.allclose(exact, torch.full_like(exact, 1 / (power + 1)), atol=1e-12)


@pytest.mark.parametrize("quadrature", ["midpoint", "graded"])
def test_every_point_between_makes_trapezoids_and_radau_ends(quadrature: Quadrature) -> None:
    places, cells = nodes(5, quadrature)
    added, kept, weights = points_between(torch.ones(6, 1, dtype=torch.bool), cells)
    # Trapezoids of half a cell from the first to the last midpoint, and parabolas are exact outside of them.
    inner = torch.cat([places, added[1:-1, 0]]).sort().values
    low, high = places[0].item(), places[-1].item()
    expected = torch.trapezoid(inner**2, inner) + low**3 / 3 + (1 - high**3) / 3
    assert ((kept * places[:, None] ** 2).sum() + (weights * added**2).sum()).item() == pytest.approx(expected.item())


def test_stretches_that_are_missed_are_found() -> None:
    places, cells = nodes(5, "midpoint")
    # A bend between the second and the third midpoint, and straight lines elsewhere.
    path = torch.cat([torch.zeros(1), places, torch.ones(1)])[:, None]
    value = torch.where(path < 0.35, path, 0.35 + 3 * (path - 0.35))
    slopes = torch.where(places[:, None] < 0.35, 1.0, 3.0).double()
    errors = stretch_errors(value, slopes, cells)[:, 0]
    assert errors.argmax() == 2 and errors[[0, 1, 3, 4, 5]].max() < 1e-12
    # Trapezoid .4 against .1 · … up to the bend and three times as steep behind it.
    assert errors[2].item() == pytest.approx(abs(0.2 * 2 - (0.05 * 1 + 0.15 * 3)))
