"""The error of a difference: what it reduces to where a textbook knows the answer, and where variance is missing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t as student

from benchmarks.stats import PairedDifference, macro_paired_difference, paired_difference, verdict
from benchmarks.stats.paired import _resamples, linear_contrast


def test_one_seed_of_unclustered_items_is_the_paired_t_test() -> None:
    rng = np.random.default_rng(6)
    a, b = rng.random((1, 500)) < 0.6, rng.random((1, 500)) < 0.5
    found, items = paired_difference(a, b), a[0].astype(float) - b[0]
    error = items.std(ddof=1) / np.sqrt(500)
    assert found.freedom == pytest.approx(499)
    assert 1 - 1e-9 <= found.standard_error / error < 1.05
    assert found.high - found.low == pytest.approx(2 * student.ppf(0.975, 499) * found.standard_error)


def test_items_alike_leave_the_seeds_t_test() -> None:
    # Every item of a seed comes out the same, so nothing but the seeds' means is left.
    a = np.repeat([[0.2], [0.5], [0.8]], 400, axis=1)
    found = paired_difference(a, np.full((1, 400), 0.5))
    assert found.freedom == pytest.approx(2, abs=0.01)
    assert found.standard_error == pytest.approx(0.3 / np.sqrt(3), rel=0.05)


def test_the_chance_of_answers_is_counted_once() -> None:
    # No run is better than another; each answers its items at random, 3 × 2000 coins a method.
    errors = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        a, b = rng.random((3, 2000)) < 0.5, rng.random((3, 2000)) < 0.5
        errors.append(paired_difference(a, b, draws=500).standard_error)
    once = np.sqrt(2 * 0.25 / 6000)
    # Where the seeds' means spread less than chance, no less than the items' part is taken: some above, not √2.
    assert once < np.sqrt(np.mean(np.square(errors))) < 1.25 * once


def test_there_are_never_fewer_degrees_of_freedom_than_of_the_part_known_worst() -> None:
    rng = np.random.default_rng(10)
    pairs = [(rng.random((3, 8)) < 0.5, rng.random((3, 8)) < 0.5) for _ in range(200)]
    assert min(paired_difference(*pair, draws=50).freedom for pair in pairs) >= 2


@given(st.floats(0.001, 0.3), st.floats(1, 500), st.floats(0.5, 0.99), st.floats(0.8, 0.999))
def test_power_and_the_detectable_difference_are_inverse(
    error: float, freedom: float, power: float, level: float
) -> None:
    found = PairedDifference(0.0, -1.0, 1.0, 1.0, error, freedom, 0.0)
    smallest = found.detectable(power, level)
    assert found.power(smallest, level) == pytest.approx(power, abs=0.01)
    assert found.power(2 * smallest, level) > found.power(smallest, level)


def test_the_interval_leaves_zero_out_just_when_p_is_below_the_level() -> None:
    rng = np.random.default_rng(8)
    for gain in np.linspace(0, 0.4, 30):
        a, b = rng.random((3, 60)) < 0.4 + gain, rng.random((3, 60)) < 0.4
        found = paired_difference(a, b, level=0.9, draws=300)
        assert (found.low > 0 or found.high < 0) == (found.p < 0.1)


def test_resamples_that_were_kept_change_no_byte() -> None:
    rng = np.random.default_rng(9)
    sets = [{name: rng.random((3, n)) < 0.5 for name, n in (("x", 30), ("y", 40))} for _ in range(2)]
    first = macro_paired_difference(*sets, seed=5)
    again = macro_paired_difference(*sets, seed=5)
    _resamples.cache_clear()
    assert first == again == macro_paired_difference(*sets, seed=5) != macro_paired_difference(*sets, seed=6)


@pytest.mark.parametrize("n", [1, 2, 12, 150])
def test_equal_answers_everywhere_do_not_show_that_methods_are_equal(n: int) -> None:
    same = paired_difference(np.ones((3, n)), np.ones((3, n)))
    assert same.delta == 0 and same.p == 1
    # 150 items without one difference leave room for the rule of three's 3/n, not for none.
    assert 3 / n < same.detectable() < 20 / n
    assert verdict(same, same.p, level=0.95, margin=0.03).startswith("equivalent" if n == 150 else "inconclusive")


@pytest.mark.parametrize("n, claimed", [(1, False), (2, False), (12, True)])
def test_items_that_all_differ_alike_are_claimed_once_they_are_several(n: int, claimed: bool) -> None:
    found = paired_difference(np.ones((1, n)), np.zeros((1, n)))
    assert found.delta == 1 and found.high == 1
    assert (verdict(found, found.p, level=0.95, margin=0.03) == "better") == claimed


def test_four_verdicts() -> None:
    def words(delta: float, error: float, p: float, level: float = 0.95) -> str:
        half = 1.96 * error
        found = PairedDifference(delta, delta - half, delta + half, p, error, 1e9, 0.0)
        return verdict(found, p, level=level, margin=0.03)

    assert words(0.04, 0.015, 0.01) == "better" and words(-0.04, 0.015, 0.01) == "worse"
    assert words(0.04, 0.015, 0.01, level=0.999) == "inconclusive (±2.9 points)"
    assert words(0.01, 0.01, 0.3) == "equivalent (within ±3 points)"
    assert words(0.01, 0.02, 0.6) == "inconclusive (±3.9 points)"
    with pytest.raises(ValueError, match="compare first"):
        words(0.01, 0.02, float("nan"))
    with pytest.raises(ValueError, match=r"at least 0\.5"):
        PairedDifference(0, -1, 1, 1, 0.1, 10, 0).detectable(power=1)


def test_a_cluster_may_lie_in_several_sets() -> None:
    # One label decides an item of each of two sets: half as many independent answers as items.
    rng = np.random.default_rng(11)
    label = rng.random((1, 200)) < 0.5
    scores = {"x": label, "y": label}
    nothing = {name: np.zeros((1, 200)) for name in scores}
    apart = macro_paired_difference(scores, nothing)
    shared = macro_paired_difference(scores, nothing, clusters={name: list(range(200)) for name in scores})
    assert shared.standard_error / apart.standard_error == pytest.approx(np.sqrt(2), rel=0.03)
    assert shared.freedom == pytest.approx(199) and apart.freedom == pytest.approx(399)


def test_few_heavy_clusters_leave_few_degrees_of_freedom() -> None:
    rng = np.random.default_rng(12)
    a, b = rng.random((1, 400)) < 0.5, rng.random((1, 400)) < 0.5
    names = [0] * 100 + [1] * 100 + list(range(2, 202))
    assert paired_difference(a, b, clusters=names).freedom < 3


def test_each_method_s_own_spread_counts() -> None:
    # Welch: with one method's runs far apart and the other's equal, the freedom is that of the first.
    spread = np.repeat(np.linspace(0.2, 0.8, 6)[:, None], 300, axis=1)
    found = paired_difference(spread, np.full((6, 300), 0.5))
    assert found.freedom == pytest.approx(5, abs=0.05)
    assert found.standard_error == pytest.approx(spread[:, 0].std(ddof=1) / np.sqrt(6), rel=0.05)


def alike(means: list[float]) -> dict[str, np.ndarray]:
    """Runs whose items all come out the same, so nothing but the runs' means varies."""
    return {"x": np.repeat(np.array(means)[:, None], 400, axis=1)}


def test_paired_seeds_are_the_paired_t_test() -> None:
    a, b = alike([0.3, 0.6, 0.8, 0.5]), alike([0.2, 0.55, 0.6, 0.45])
    found = macro_paired_difference(a, b, paired_seeds=True)
    assert found.freedom == pytest.approx(3, abs=0.1)
    assert found.standard_error == pytest.approx(np.std([0.1, 0.05, 0.2, 0.05], ddof=1) / 2, rel=0.05)
    assert found.standard_error < macro_paired_difference(a, b).standard_error / 2
    # One run of the baseline takes nothing from the runs' spread.
    alone = macro_paired_difference(a, alike([0.2]), paired_seeds=True)
    assert alone.standard_error == pytest.approx(macro_paired_difference(a, alike([0.2])).standard_error)


def test_cold_starts_are_the_replicates() -> None:
    starts, means = [0, 1, 0, 1, 0, 1], [0.3, 0.6, 0.34, 0.62, 0.32, 0.64]
    by_start = np.array([[0.3, 0.34, 0.32], [0.6, 0.62, 0.64]]).mean(1)
    found = linear_contrast([(1.0, alike(means))], starts=starts)
    assert found.freedom == pytest.approx(1, abs=0.01)
    assert found.standard_error == pytest.approx(by_start.std(ddof=1) / np.sqrt(2), rel=0.05)
    # One start for all: what holds, holds for it, and every run counts.
    assert linear_contrast([(1.0, alike(means))], starts=[0] * 6) == linear_contrast([(1.0, alike(means))])
    # A policy that was not trained takes part with the start's own run.
    cold = macro_paired_difference(alike(means), alike([0.3, 0.6]), starts=starts, paired_seeds=True)
    assert cold.delta == pytest.approx(0.02) and cold.standard_error < 0.01
    with pytest.raises(ValueError, match="found 4 runs for 6 seeds of 2 cold starts"):
        macro_paired_difference(alike(means), alike([0.3] * 4), starts=starts, paired_seeds=True)
