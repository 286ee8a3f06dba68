"""The one extractor and the one matcher."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iapo.rewards.answer_matching import extract, score


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("FINAL ANSWER: 5 TERMINATE", "5"),
        ("final answer: U.S. dollars.", "U.S. dollars"),
        ("FINAL ANSWER: the U.S.", "the U.S."),
        ("FINAL ANSWER: 3.5.", "3.5"),
        ("FINAL ANSWER: 1\nFINAL ANSWER: **2**", "2"),
        ("FINAL ANSWER: x\nbecause", "x"),
        ("FINAL ANSWER:", None),
        ("FINAL ANSWER: TERMINATE", None),
        ("the answer is 5", None),
    ],
)
def test_extract(text: str, answer: str | None) -> None:
    assert extract(text) == answer


@pytest.mark.parametrize(
    ("prediction", "gold", "metric", "value"),
    [
        ("Yes.", "yes", "exact", 1),
        ("a||b", "b|||a", "exact", 1),
        ("a", "b|||a", "exact", 0),
        ("a||b||c", "b|||a", "exact", 0),
        ("45%", "45", "relaxed", 1),
        ("1,000", "1000", "relaxed", 1),
        ("$5", "5", "relaxed", 1),
        ("0", "0.0", "relaxed", 1),
        ("0.01", "0", "relaxed", 0),
        ("104", "100", "relaxed", 1),
        ("106", "100", "relaxed", 0),
        ("2008", "2010", "relaxed", 0),
        ("2010", "2015", "relaxed", 0),
        ("−5", "-5", "relaxed", 1),
        ("-5", "5", "relaxed", 0),
        ("inf", "inf", "relaxed", 0),
        ("nan", "nan", "relaxed", 0),
        ("true", "1", "fact", 1),
        ("False.", "0", "fact", 1),
        ("true and false", "1", "fact", 0),
        ("maybe", "1", "fact", 0),
        (None, "1", "exact", 0),
    ],
)
def test_score(prediction: str | None, gold: str, metric: str, value: float) -> None:
    assert score(prediction, gold, metric) == value  # type: ignore[arg-type]


@given(st.text(), st.text(), st.sampled_from(["exact", "relaxed", "fact"]))
def test_nothing_raises(prediction: str, gold: str, metric: str) -> None:
    assert score(extract("FINAL ANSWER: " + prediction), gold, metric) in (0.0, 1.0)  # type: ignore[arg-type]


@given(st.floats(-1e6, 1e6, allow_nan=False).map(lambda x: f"{x:,.2f}"))
def test_a_number_matches_itself(gold: str) -> None:
    assert score(gold, gold, "relaxed") == 1
