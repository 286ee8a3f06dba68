"""The verdict on three teachers of known worth, and what few or constant data give."""

import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iapo.alignment.informativeness import agreement, centre, correlation, informativeness

GROUPS, ROLLOUTS = 40, 8
NAMES = [f"prompt {i // ROLLOUTS}" for i in range(GROUPS * ROLLOUTS)]
CORRECT = [random.Random(f"{i}").random() < 0.5 for i in range(len(NAMES))]
NOISE = [random.Random(f"noise {i}").random() for i in range(len(NAMES))]


def test_an_informative_teacher_is_called_so() -> None:
    found = informativeness([0.1 * n + 0.3 * (not c) for n, c in zip(NOISE, CORRECT, strict=True)], CORRECT, NAMES)
    assert found.verdict == "informative" and found.auc == 1 and found.correlation > 0.9
    assert "tells right calls from wrong ones" in found.sentence


def test_a_constant_teacher_is_not_informative() -> None:
    found = informativeness([0.2] * len(NAMES), CORRECT, NAMES)
    assert found.verdict == "not" and found.auc == 0.5 and math.isnan(found.correlation)


def test_a_teacher_that_differs_only_between_groups_is_not_informative() -> None:
    found = informativeness([float(name.split()[1]) for name in NAMES], CORRECT, NAMES)
    assert found.verdict == "not" and found.auc == 0.5 and found.penalty_std == 0


def test_a_shuffled_teacher_is_not_informative() -> None:
    penalties = [0.1 * n + 0.3 * (not c) for n, c in zip(NOISE, CORRECT, strict=True)]
    verdicts = []
    for seed in range(20):
        shuffled = penalties.copy()
        random.Random(seed).shuffle(shuffled)
        verdicts.append(informativeness(shuffled, CORRECT, NAMES).verdict)
    # The interval of a worthless teacher lies above chance in one of forty.
    assert verdicts.count("not") >= 17 and "informative" not in verdicts


def test_a_teacher_that_is_right_a_little_more_often_is_weak() -> None:
    penalties = [n + 0.12 * (not c) for n, c in zip(NOISE, CORRECT, strict=True)]
    assert informativeness(penalties, CORRECT, NAMES).verdict == "weak"


def test_a_teacher_that_prefers_wrong_calls_is_not_informative() -> None:
    assert informativeness([float(c) for c in CORRECT], CORRECT, NAMES).verdict == "not"


@pytest.mark.parametrize("correct", [[True] * 16, [False] * 16, [], [True, False] * 8])
def test_too_few_mixed_groups_say_nothing(correct: list[bool]) -> None:
    names = [f"{i // 2}" for i in range(len(correct))]
    found = informativeness([0.0 if c else 1.0 for c in correct], correct, names)
    assert found.verdict == "not" and "too few groups" in found.sentence
    assert found.calls == len(correct)


def test_teachers_agree_within_groups_only() -> None:
    offset = [value + 10 * float(name.split()[1]) for value, name in zip(NOISE, NAMES, strict=True)]
    assert agreement(NOISE, offset, NAMES) == pytest.approx(1)
    between = [float(name.split()[1]) for name in NAMES]
    assert math.isnan(agreement(NOISE, between, NAMES))
    assert agreement(NOISE, [-value for value in NOISE], NAMES) == pytest.approx(-1)


@given(st.lists(st.tuples(st.floats(-5, 5), st.sampled_from("abc")), min_size=1))
def test_centred_groups_have_mean_zero(pairs: list[tuple[float, str]]) -> None:
    import numpy as np

    names = [name for _, name in pairs]
    centred = centre(np.array([value for value, _ in pairs]), names)
    for name in set(names):
        assert centred[[n == name for n in names]].mean() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("values", [[1.0], [2.0, 2.0]])
def test_a_correlation_without_spread_is_not_a_number(values: Any) -> None:
    import numpy as np

    assert math.isnan(correlation(np.array(values), np.array(values)))
