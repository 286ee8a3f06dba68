"""The share of an oracle's gain: by hand, its interval's coverage, and where it has no end."""

import numpy as np
import pytest
from scipy.stats import t as student

from benchmarks.stats.paired import linear_contrast
from benchmarks.stats.ratio import ratio_of_contrasts

GAIN, ORACLE_GAIN = {"m": 1.0, "r": -1.0}, {"o": 1.0, "r": -1.0}
Sets = dict[str, dict[str, np.ndarray]]


def simulated(seed: int, method: float = 0.6, items: int = 300) -> Sets:
    rng = np.random.default_rng(seed)
    chances = {"m": method, "o": 0.7, "r": 0.5}
    return {name: {"x": (rng.random((4, items)) < chance).astype(float)} for name, chance in chances.items()}


def test_the_estimate_is_the_ratio_of_the_differences() -> None:
    scores = simulated(0)
    means = {name: each["x"].mean() for name, each in scores.items()}
    found = ratio_of_contrasts(scores, GAIN, ORACLE_GAIN, draws=200)
    assert found.value == pytest.approx((means["m"] - means["r"]) / (means["o"] - means["r"]))
    assert found.low < found.value < found.high


def test_at_an_end_the_difference_is_just_found() -> None:
    scores = simulated(1)
    found = ratio_of_contrasts(scores, GAIN, ORACLE_GAIN, draws=200)
    for end in (found.low, found.high):
        terms = [(1.0, scores["m"]), (end - 1, scores["r"]), (-end, scores["o"])]
        contrast = linear_contrast(terms, draws=200)
        critical = student.ppf(0.975, contrast.freedom) * contrast.standard_error
        assert abs(contrast.delta) == pytest.approx(critical, rel=0.01)


def test_the_interval_covers_the_true_share() -> None:
    found = [ratio_of_contrasts(simulated(seed), GAIN, ORACLE_GAIN, draws=50) for seed in range(60)]
    assert np.mean([each.low <= 0.5 <= each.high for each in found]) >= 0.9
    assert np.mean([each.high - each.low for each in found]) < 0.6


def test_the_oracle_has_all_of_its_own_gain() -> None:
    scores = simulated(2)
    same = ratio_of_contrasts(scores | {"m": scores["o"]}, {"o": 1.0, "r": -1.0}, ORACLE_GAIN, draws=200)
    assert same.value == 1 and same.low == pytest.approx(1, abs=0.05) == same.high


def test_an_oracle_without_a_gain_has_no_shares() -> None:
    scores = simulated(3)
    with pytest.raises(ValueError, match="other than 0"):
        ratio_of_contrasts(scores | {"o": scores["r"]}, GAIN, ORACLE_GAIN, draws=200)
