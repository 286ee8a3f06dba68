"""Do the tables claim as often as they say? Simulated pairs of methods with the variance of real runs."""

from collections.abc import Mapping

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.stats import PairedDifference, macro_paired_difference, verdict

PAIRS = 500
SETS, ITEMS, FIGURES, SEEDS = 6, 150, 75, 3

Runs = Mapping[str, NDArray[np.float64]]


def methods(rng: np.random.Generator, gain: float) -> tuple[Runs, Runs, float]:
    """Two methods on the same items, and the true difference of their accuracies.

    On the logit scale: items as hard as their set, their figure and themselves make them; a training run is better
    or worse everywhere (2 to 3 points of accuracy) and a little on each set; answers are drawn.
    """
    ease = rng.normal(0.6, 0.8, (SETS, 1)) + rng.normal(0, 1.2, (SETS, FIGURES)).repeat(ITEMS // FIGURES, axis=1)
    ease = ease + rng.normal(0, 1.5, (SETS, ITEMS))
    found = []
    for shift in (gain, 0.0):
        run = rng.normal(0, 0.18, (SEEDS, 1, 1)) + rng.normal(0, 0.12, (SEEDS, SETS, 1))
        right = rng.random((SEEDS, SETS, ITEMS)) < sigmoid(ease + run + shift)
        found.append({str(i): right[:, i].astype(float) for i in range(SETS)})
    return found[0], found[1], float((sigmoid(ease + gain) - sigmoid(ease)).mean())


def sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(1 / (1 + np.exp(-x)))


def simulated(gain: float, seed: int) -> tuple[list[PairedDifference], NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    clusters = {str(i): [str(item // (ITEMS // FIGURES)) for item in range(ITEMS)] for i in range(SETS)}
    found, truths = [], []
    for _ in range(PAIRS):
        a, b, truth = methods(rng, gain)
        found.append(macro_paired_difference(a, b, clusters=clusters, draws=500))
        truths.append(truth)
    return found, np.array(truths)


@pytest.fixture(scope="module")
def equal() -> list[PairedDifference]:
    return simulated(0.0, seed=11)[0]


def test_equal_methods_are_told_apart_in_3_to_7_percent(equal: list[PairedDifference]) -> None:
    claims = [verdict(found, found.p) in ("better", "worse") for found in equal]
    assert 0.03 <= np.mean(claims) <= 0.07


def test_intervals_cover_the_truth_in_93_to_97_percent(equal: list[PairedDifference]) -> None:
    assert 0.93 <= np.mean([found.low <= 0 <= found.high for found in equal]) <= 0.97


def test_five_points_are_found_as_often_as_the_power_says() -> None:
    # A gain of 0.33 on the logit scale is five points on average over these items.
    found, truths = simulated(0.33, seed=12)
    assert truths.mean() == pytest.approx(0.05, abs=0.005)
    claimed = np.mean([verdict(each, each.p) == "better" for each in found])
    stated = np.mean([each.power(truth) for each, truth in zip(found, truths, strict=True)])
    assert claimed == pytest.approx(stated, abs=0.05)
    # The interval speaks of the population that the items are from, not of the items that were drawn.
    covered = [each.low <= truths.mean() <= each.high for each in found]
    assert 0.93 <= np.mean(covered) <= 0.97
