"""Intervals that cover what they should, tests against worked examples. The claims as a whole: test_claims.py."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from benchmarks.stats import fixed_sequence, holm, macro_average, mcnemar, paired_difference, verdict


def test_equal_methods_are_rarely_called_different() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(300):
        difficulty = rng.normal(0, 1.5, 200)
        runs = [difficulty + rng.normal(0, 0.4, (3, 1)) + rng.normal(0, 1, (3, 200)) > 0 for _ in range(2)]
        result = paired_difference(*runs, seed=trial, draws=400)
        covered += result.low <= 0 <= result.high
    assert 0.92 <= covered / 300 <= 0.995


def test_a_planted_difference_is_found_and_the_seed_fixes_the_interval() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.random((3, 900)) < 0.6, rng.random((3, 900)) < 0.5
    first, second = paired_difference(a, b, seed=3), paired_difference(a, b, seed=3)
    assert first == second and first.low > 0 and first.p < 0.01
    assert first.delta == pytest.approx(a.mean() - b.mean())


def test_clusters_widen_the_interval() -> None:
    a = np.repeat(np.random.default_rng(2).random((1, 50)) < 0.5, 8, axis=1).astype(float)
    b = np.zeros_like(a)
    alone, shared = paired_difference(a, b), paired_difference(a, b, clusters=list(np.repeat(range(50), 8)))
    assert shared.high - shared.low > 2 * (alone.high - alone.low)


def test_missing_scores_and_other_items_are_refused() -> None:
    with pytest.raises(ValueError, match="missing"):
        paired_difference([[1, np.nan]], [[1, 0]])
    with pytest.raises(ValueError, match="3 items against 2"):
        paired_difference([[1, 0, 1]], [[1, 0]])


def test_macro_average_weighs_sets_alike() -> None:
    result = macro_average({"a": np.ones((1, 10)), "b": np.zeros((1, 1000))})
    assert result.mean == 0.5 and result.standard_error == 0


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == [] and holm([0.9, 0.8]) == [1.0, 1.0]
    adjusted = holm([0.02, float("nan"), 0.03])
    assert np.isnan(adjusted[1]) and [adjusted[0], adjusted[2]] == pytest.approx([0.04, 0.04])
    with pytest.raises(ValueError, match=r"1\.5"):
        holm([1.5])


@given(st.lists(st.floats(0, 1), max_size=20))
def test_holm_never_lowers_and_keeps_the_order(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert all(raw <= each <= 1 for raw, each in zip(p_values, adjusted, strict=True))
    pairs = sorted(zip(p_values, adjusted, strict=True))
    assert all(a <= b for (_, a), (_, b) in pairwise(pairs))


def test_mcnemar_is_the_binomial_test_of_the_discordant_items() -> None:
    a = np.array([[1, 1, 1, 1, 1, 1, 0, 0, 1, 0]])
    b = np.array([[0, 0, 0, 0, 0, 1, 1, 0, 1, 0]])
    found = mcnemar(a, b)
    assert (found.only_a, found.only_b) == (5, 1)
    assert found.p == pytest.approx(binomtest(5, 6).pvalue)
    # The majority of the seeds; a tie counts for neither.
    seeds = mcnemar([[1, 1, 1], [1, 0, 0], [1, 1, 0]], [[0, 0, 0], [0, 1, 0]])
    assert (seeds.only_a, seeds.only_b) == (1, 0)
    assert mcnemar([[1.0]], [[1.0]]).p == 1


def test_power_and_the_detectable_difference_agree() -> None:
    rng = np.random.default_rng(4)
    found = paired_difference(rng.integers(0, 2, (3, 300)), rng.integers(0, 2, (3, 300)))
    for power in (0.5, 0.8, 0.95):
        assert found.power(found.detectable(power)) == pytest.approx(power, abs=0.01)
    assert found.power(0.0) == pytest.approx(0.05, abs=0.03)
    assert found.detectable(0.9) > found.detectable(0.8) > 0


def test_a_sequence_ends_at_its_first_failure() -> None:
    assert fixed_sequence([0.01, 0.04, 0.02]) == [0.01, 0.04, 0.04]
    assert fixed_sequence([0.2, 0.001]) == [0.2, 0.2] and fixed_sequence([]) == []
    assert np.isnan(fixed_sequence([0.01, float("nan"), 0.001])[1:]).all()
    with pytest.raises(ValueError, match=r"-0\.1"):
        fixed_sequence([-0.1])


def test_verdicts() -> None:
    rng = np.random.default_rng(5)
    b = rng.integers(0, 2, (3, 400)).astype(float)
    better = paired_difference(np.ones((3, 400)), b)
    tests = {"level": 0.95, "margin": 0.03}
    assert verdict(better, better.p, **tests) == "better"
    assert verdict(paired_difference(b, np.ones((3, 400))), 0.001, **tests) == "worse"
    # Corrected for being one of many, the same difference may claim nothing.
    assert verdict(better, 0.2, **tests).startswith("inconclusive (±")
    same = paired_difference(b, b)
    assert same.delta == 0 and verdict(same, same.p, **tests) == "equivalent (within ±3 points)"
