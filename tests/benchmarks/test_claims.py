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
LABELS = 150
"""Labels that questions ask for, the same in all sets; questions about one label form a cluster."""
LABEL, QUESTION, RUN_LABEL, ANSWER = 1.0, 1.75, 0.5, 0.9
"""Standard deviations of logits: of labels and questions (2 together; all methods share them), and of how one run does
on one label and on one question beside its run's skill."""
GRID, WEIGHTS = np.polynomial.hermite_e.hermegauss(60)

MARGIN = 3
"""Points within which methods count as equivalent."""

Scores = dict[str, NDArray[np.bool_]]
Clusters = dict[str, list[int]]


@dataclass(frozen=True)
class World:
    """How far apart training runs lie: standard deviations of logits, a run's over all sets and its set by set."""

    seeds: int
    run: float
    run_by_set: float
    ratio: float = 1.0
    """How much further the second method's runs lie apart than the first's, which these are."""


TRAINED = World(3, run=0.18, run_by_set=0.12)
"""Runs of one method then differ by 2.5 points of average accuracy (standard deviation)."""
WORLDS = {
    "three seeds": TRAINED,
    "five seeds": World(5, run=0.18, run_by_set=0.12),
    "far apart": World(3, run=0.3, run_by_set=0.2),
    "unequal, three seeds": World(3, run=0.1, run_by_set=0.06, ratio=4),
    "unequal, six seeds": World(6, run=0.1, run_by_set=0.06, ratio=4),
    "unequal, twelve seeds": World(12, run=0.1, run_by_set=0.06, ratio=4),
    "without training": World(1, run=0, run_by_set=0),
}


def accuracy(world: World, gain: float, ratio: float = 1.0) -> float:
    """Expected average accuracy with ``gain`` added to all logits."""
    spread = np.linalg.norm([LABEL, QUESTION, RUN_LABEL, ANSWER, world.run * ratio, world.run_by_set * ratio])
    logits = np.array(list(SETS.values()))[:, None] + gain + spread * GRID
    return float((expit(logits) @ WEIGHTS).mean() / WEIGHTS.sum())


def gain_of(world: World, points: float) -> float:
    """What is to be added to the first method's logits so that it is better by ``points``."""
    target = accuracy(world, 0, world.ratio) + points / 100
    return float(brentq(lambda logit: accuracy(world, logit) - target, -1, 3))


def simulate(world: World, points: float, seed: int, pairs: int = PAIRS) -> Iterator[tuple[Scores, Scores, Clusters]]:
    """Pairs of methods of which the first is better by ``points`` of average accuracy, and the items' labels."""
    rng = np.random.default_rng(seed)
    gain = gain_of(world, points)
    ease = np.array(list(SETS.values()))[:, None]
    shape = (world.seeds, len(SETS), ITEMS)
    for _ in range(pairs):
        asked = rng.integers(0, LABELS, shape[1:])
        questions = ease + rng.normal(0, LABEL, LABELS)[asked] + rng.normal(0, QUESTION, shape[1:])
        pair = []
        for added, ratio in ((gain, 1.0), (0.0, world.ratio)):
            runs = rng.normal(0, world.run, (world.seeds, 1, 1)) + rng.normal(0, world.run_by_set, (*shape[:2], 1))
            labels = rng.normal(0, RUN_LABEL, (world.seeds, LABELS))[:, asked]
            logits = questions + added + ratio * runs + labels + rng.normal(0, ANSWER, shape)
            right = rng.random(shape) < expit(logits)
            pair.append({name: right[:, i] for i, name in enumerate(SETS)})
        yield pair[0], pair[1], {name: asked[i].tolist() for i, name in enumerate(SETS)}


def compare(world: World, points: float, seed: int, pairs: int = PAIRS) -> list[PairedDifference]:
    return [
        macro_paired_difference(a, b, clusters=clusters, seed=7, draws=500)
        for a, b, clusters in simulate(world, points, seed, pairs)
    ]


def share(found: list[PairedDifference], *verdicts: str) -> float:
    words = [verdict(each, each.p, level=0.95, margin=MARGIN / 100).split(" (")[0] for each in found]
    return float(np.mean([each in verdicts for each in words]))


@dataclass(frozen=True)
class Starts:
    """Cold starts shared by both methods, and how far apart they push the methods: standard deviations of logits."""

    starts: int
    seeds_each: int
    together: float = 0.3
    """What a start does to both methods alike."""
    apart: float = 0.15
    """What it does to one of them, which its seeds share."""


def simulate_starts(shape: Starts, seed: int, points: float = 0) -> Iterator[PairedDifference]:
    """Comparisons of methods whose seeds start from cold starts; the first is better by ``points``."""
    rng = np.random.default_rng(seed)
    spread = float(np.linalg.norm([shape.together, shape.apart, TRAINED.run]))
    gain = gain_of(World(shape.starts, spread, 0), points)
    ease = np.array(list(SETS.values()))[:, None]
    starts = np.tile(np.arange(shape.starts), shape.seeds_each)
    size = (len(starts), len(SETS), ITEMS)
    for _ in range(PAIRS):
        asked = rng.integers(0, LABELS, size[1:])
        questions = ease + rng.normal(0, LABEL, LABELS)[asked] + rng.normal(0, QUESTION, size[1:])
        shared = rng.normal(0, shape.together, shape.starts)
        pair = []
        for added in (gain, 0.0):
            runs = (shared + rng.normal(0, shape.apart, shape.starts))[starts] + rng.normal(0, TRAINED.run, len(starts))
            labels = rng.normal(0, RUN_LABEL, (len(starts), LABELS))[:, asked]
            logits = questions + added + runs[:, None, None] + labels + rng.normal(0, ANSWER, size)
            right = rng.random(size) < expit(logits)
            pair.append({name: right[:, i] for i, name in enumerate(SETS)})
        clusters = {name: asked[i].tolist() for i, name in enumerate(SETS)}
        yield macro_paired_difference(
            *pair, clusters=clusters, starts=starts.tolist(), paired_seeds=True, seed=7, draws=300
        )


@pytest.mark.parametrize("shape", [Starts(4, 1), Starts(4, 2), Starts(4, 2, apart=0)], ids=str)
def test_equal_methods_of_shared_cold_starts_are_claimed_different_in_one_of_twenty(shape: Starts) -> None:
    found = list(simulate_starts(shape, seed=6))
    assert 0.03 <= share(found, "better", "worse") <= 0.07
    assert 0.93 <= np.mean([each.low <= 0 <= each.high for each in found]) <= 0.97


def test_five_points_over_shared_cold_starts_are_found_as_often_as_the_stated_power_says() -> None:
    # As mini's: six cold starts, one run each.
    found = list(simulate_starts(Starts(6, 1), seed=8, points=5))
    assert share(found, "better") == pytest.approx(np.mean([each.power(0.05) for each in found]), abs=0.05)
    assert share(found, "worse") < 0.01
    assert 0.93 <= np.mean([each.low <= 0.05 <= each.high for each in found]) <= 0.97


@pytest.mark.parametrize("shape", [Starts(6, 1, apart=0.05), Starts(12, 1)], ids=str)
def test_methods_at_the_margin_are_seldom_called_equivalent_over_shared_cold_starts(shape: Starts) -> None:
    assert share(list(simulate_starts(shape, seed=9, points=MARGIN)), "equivalent") < 0.05


def test_the_simulated_runs_lie_as_far_apart_as_trained_ones() -> None:
    runs = [np.mean([scores.mean(1) for scores in a.values()], axis=0) for a, _, _ in simulate(TRAINED, 0, seed=0)]
    assert 0.02 < np.sqrt(np.mean([means.var(ddof=1) for means in runs])) < 0.03


@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
def test_equal_methods_are_claimed_different_in_one_of_twenty(world: World) -> None:
    found = compare(world, points=0, seed=1)
    assert 0.03 <= share(found, "better", "worse") <= 0.07
    assert 0.93 <= np.mean([each.low <= 0 <= each.high for each in found]) <= 0.97


@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
def test_five_points_are_found_as_often_as_the_stated_power_says(world: World) -> None:
    found = compare(world, points=5, seed=2, pairs=3 * PAIRS)
    assert share(found, "better") == pytest.approx(np.mean([each.power(0.05) for each in found]), abs=0.05)
    assert share(found, "worse") < 0.01
    # Three runs a method, of which one method's lie four times further apart, are too few for .95: it is .92.
    least = 0.91 if world.seeds == 3 and world.ratio > 1 else 0.93
    assert least <= np.mean([each.low <= 0.05 <= each.high for each in found]) <= 0.97


def test_the_detectable_difference_is_found_at_its_power() -> None:
    points = 100 * float(np.mean([each.detectable(0.8) for each in compare(TRAINED, points=0, seed=3)]))
    assert share(compare(TRAINED, points, seed=4), "better") == pytest.approx(0.8, abs=0.05)


@pytest.mark.parametrize("name", ["three seeds", "five seeds", "unequal, six seeds", "unequal, twelve seeds"])
def test_methods_at_the_margin_are_seldom_called_equivalent(name: str) -> None:
    assert share(compare(WORLDS[name], MARGIN, seed=5), "equivalent") < 0.05
