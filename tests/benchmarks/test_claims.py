"""The harness on simulated methods whose truth is known: it claims, covers and finds as often as it says."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit

from benchmarks.stats import PairedDifference, macro_paired_difference, verdict

PAIRS = 500
SETS = {"charxiv": -1.0, "h_bar": -0.4, "v_bar": 0.0, "vwtq": 0.4, "vwtq_syn": 1.0, "vtabfact": 1.6}
"""Mean ease of each set's questions, as a logit."""
ITEMS = 150
FIGURES = np.arange(ITEMS) // 2
"""[N] two questions share a figure."""
FIGURE, QUESTION, ANSWER = 1.0, 1.75, 1.0
"""Standard deviations of logits: of figures and questions (2 together; all methods share them), and of how one run
does on one question beside its run's skill."""
GRID, WEIGHTS = np.polynomial.hermite_e.hermegauss(60)

Scores = dict[str, NDArray[np.bool_]]


@dataclass(frozen=True)
class World:
    """How far apart training runs lie: standard deviations of logits, a run's over all sets and its set by set."""

    seeds: int
    run: float
    run_by_set: float


TRAINED = World(3, run=0.18, run_by_set=0.12)
"""Runs of one method then differ by 2.5 points of average accuracy (standard deviation)."""
WORLDS = {
    "three seeds": TRAINED,
    "five seeds": World(5, run=0.18, run_by_set=0.12),
    "far apart": World(3, run=0.3, run_by_set=0.2),
    "without training": World(1, run=0, run_by_set=0),
}


def accuracy(world: World, gain: float) -> float:
    """Expected average accuracy with ``gain`` added to all logits."""
    spread = np.linalg.norm([FIGURE, QUESTION, ANSWER, world.run, world.run_by_set])
    logits = np.array(list(SETS.values()))[:, None] + gain + spread * GRID
    return float((expit(logits) @ WEIGHTS).mean() / WEIGHTS.sum())


def simulate(world: World, points: float, seed: int) -> Iterator[tuple[Scores, Scores]]:
    """Pairs of methods of which the first is better by ``points`` of average accuracy."""
    rng = np.random.default_rng(seed)
    gain = brentq(lambda logit: accuracy(world, logit) - accuracy(world, 0) - points / 100, -1, 3)
    ease = np.array(list(SETS.values()))[:, None]
    shape = (world.seeds, len(SETS), ITEMS)
    for _ in range(PAIRS):
        figures = rng.normal(0, FIGURE, (len(SETS), FIGURES.max() + 1))
        questions = ease + figures[:, FIGURES] + rng.normal(0, QUESTION, shape[1:])
        pair = []
        for added in (gain, 0.0):
            runs = rng.normal(0, world.run, (world.seeds, 1, 1)) + rng.normal(0, world.run_by_set, (*shape[:2], 1))
            right = rng.random(shape) < expit(questions + added + runs + rng.normal(0, ANSWER, shape))
            pair.append({name: right[:, i] for i, name in enumerate(SETS)})
        yield pair[0], pair[1]


def compare(world: World, points: float, seed: int) -> list[PairedDifference]:
    clusters = {name: FIGURES.tolist() for name in SETS}
    return [
        macro_paired_difference(a, b, clusters=clusters, seed=7, draws=1000) for a, b in simulate(world, points, seed)
    ]


def share(found: list[PairedDifference], *verdicts: str) -> float:
    return float(np.mean([verdict(each, each.p) in verdicts for each in found]))


def test_the_simulated_runs_lie_as_far_apart_as_trained_ones() -> None:
    runs = [np.mean([scores.mean(1) for scores in a.values()], axis=0) for a, _ in simulate(TRAINED, 0, seed=0)]
    assert 0.02 < np.sqrt(np.mean([means.var(ddof=1) for means in runs])) < 0.03


@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
def test_equal_methods_are_claimed_different_in_one_of_twenty(world: World) -> None:
    found = compare(world, points=0, seed=1)
    assert 0.03 <= share(found, "better", "worse") <= 0.07
    assert 0.93 <= np.mean([each.low <= 0 <= each.high for each in found]) <= 0.97


@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
def test_five_points_are_found_as_often_as_the_stated_power_says(world: World) -> None:
    found = compare(world, points=5, seed=2)
    assert share(found, "better") == pytest.approx(np.mean([each.power(0.05) for each in found]), abs=0.05)
    assert share(found, "worse") < 0.01
    assert 0.93 <= np.mean([each.low <= 0.05 <= each.high for each in found]) <= 0.97


def test_the_detectable_difference_is_found_at_its_power() -> None:
    points = 100 * float(np.mean([each.detectable(0.8) for each in compare(TRAINED, points=0, seed=3)]))
    assert share(compare(TRAINED, points, seed=4), "better") == pytest.approx(0.8, abs=0.05)
