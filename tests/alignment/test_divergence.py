"""From block sums to a penalty: distributions and divergences."""

import math
from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from iapo.alignment.divergence import Divergence, distribution, divergence
from iapo.types import BLOCKS

KINDS: tuple[Divergence, ...] = ("js", "kl_student_teacher", "kl_teacher_student")
SUMS = st.lists(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e6, max_value=1e6), min_size=4, max_size=4)
SHARES = st.lists(st.floats(0.01, 1), min_size=4, max_size=4)


def tensor(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def shares(weights: list[float]) -> Tensor:
    return tensor(weights) / sum(weights)


@pytest.mark.parametrize(
    ("signed", "epsilon", "expected"),
    [
        ([3, -1, 0, 0], 0, [0.75, 0.25, 0, 0]),
        ([0, 0, 0, 0], 0.1, [0.25] * 4),
        ([1, 0, 0, 0], 0.25, [0.625, 0.125, 0.125, 0.125]),
        ([5e-324, 0, 0, 0], 0, [0.25] * 4),
        ([[2, 0, 0, 2], [0, 0, 0, -7]], 0, [[0.5, 0, 0, 0.5], [0, 0, 0, 1]]),
    ],
)
def test_shares_of_magnitudes(signed: object, epsilon: float, expected: object) -> None:
    assert torch.allclose(distribution(tensor(signed), epsilon), tensor(expected), atol=1e-12)


def test_a_failed_attribution_stays_visible() -> None:
    assert distribution(tensor([math.nan, 0, 0, 0]), 1e-3).isnan().all()


@given(SUMS, st.floats(1e-9, 1))
def test_a_distribution_is_positive_and_sums_to_one(sums: list[float], epsilon: float) -> None:
    p = distribution(tensor(sums), epsilon)
    assert (p > 0).all() and math.isclose(p.sum().item(), 1, rel_tol=1e-12)
    assert p.dtype == torch.float64
    if any(sums) and max(map(abs, sums)) > 1e-200:
        assert torch.allclose(p, distribution(tensor(sums) * -17, epsilon), rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@given(SHARES, SHARES)
def test_a_divergence_is_zero_between_equals_only(kind: Divergence, a: list[float], b: list[float]) -> None:
    p, q = shares(a), shares(b)
    assert divergence(p, p, kind) <= 1e-15
    if (p - q).abs().max() > 1e-5:
        assert divergence(p, q, kind) > 0
    assert divergence(p, q, kind) >= 0


@given(SHARES, SHARES)
def test_jensen_shannon_is_symmetric_and_bounded(a: list[float], b: list[float]) -> None:
    p, q = shares(a), shares(b)
    assert torch.isclose(divergence(p, q, "js"), divergence(q, p, "js"), atol=1e-15)
    assert divergence(p, q, "js") <= 1
    middle = (p + q) / 2
    halves = [divergence(each, middle, "kl_student_teacher") for each in (p, q)]
    assert math.isclose(divergence(p, q, "js").item(), sum(map(float, halves)) / 2 / math.log(2), abs_tol=1e-12)


@given(SHARES, SHARES)
def test_the_two_directions_are_each_other_s_mirror(a: list[float], b: list[float]) -> None:
    p, q = shares(a), shares(b)
    assert torch.equal(divergence(p, q, "kl_student_teacher"), divergence(q, p, "kl_teacher_student"))


@pytest.mark.parametrize("kind", KINDS)
@given(SHARES, SHARES)
def test_the_order_of_the_blocks_does_not_matter(kind: Divergence, a: list[float], b: list[float]) -> None:
    p, q = shares(a), shares(b)
    every = [divergence(p[list(order)], q[list(order)], kind).item() for order in permutations(range(4))]
    assert max(every) - min(every) < 1e-12


ONE, OTHER, HALVES = [1.0, 0, 0, 0], [0, 1.0, 0, 0], [0.5, 0.5, 0, 0]


@pytest.mark.parametrize(
    ("p", "q", "kind", "expected"),
    [
        (ONE, OTHER, "js", 1),
        (ONE, OTHER, "kl_student_teacher", math.inf),
        (ONE, HALVES, "kl_student_teacher", math.log(2)),
        (ONE, HALVES, "kl_teacher_student", math.inf),
        (HALVES, ONE, "kl_teacher_student", math.log(2)),
        ([0.5, 0.25, 0.125, 0.125], [0.25] * 4, "kl_student_teacher", math.log(4) - 1.75 * math.log(2)),
    ],
)
def test_known_divergences(p: list[float], q: list[float], kind: Divergence, expected: float) -> None:
    assert divergence(tensor(p), tensor(q), kind).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4), (0, 4)])
@pytest.mark.parametrize("kind", KINDS)
def test_any_leading_shape(shape: tuple[int, ...], kind: Divergence) -> None:
    generator = torch.Generator().manual_seed(0)
    p, q = (distribution(torch.randn(shape, generator=generator), 1e-3) for _ in range(2))
    result = divergence(p, q, kind)
    assert result.shape == shape[:-1] and result.dtype == torch.float64
    flat = [divergence(a, b, kind) for a, b in zip(p.reshape(-1, 4), q.reshape(-1, 4), strict=True)]
    assert result.flatten().tolist() == pytest.approx([each.item() for each in flat], abs=1e-15)


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(ValueError, match="found divergence 'tv'; expected js"):
        divergence(tensor(ONE), tensor(ONE), "tv")  # type: ignore[arg-type]


def test_the_order_of_the_blocks_is_fixed() -> None:
    assert BLOCKS == ("P", "R", "I", "T")
