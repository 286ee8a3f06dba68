"""Each set's published rule, odd corners included, and where ours differs from it: by kind."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iapo.rewards.answers.extraction import extract
from iapo.rewards.answers.matching import score
from iapo.rewards.answers.official import official_score


@pytest.mark.parametrize(
    ("prediction", "gold", "test_set", "value"),
    [
        # TableVQA-Bench, vwtq and vwtq_syn.
        ("2.0", "2", "vwtq", 1),
        ("Léon", "leon", "vwtq_syn", 1),
        ("18–12", "18-12", "vwtq", 1),
        ("China", "China (CHN)[1]", "vwtq", 1),
        ("Paris (Texas)", "Paris (France)", "vwtq", 1),
        ("“Big Boss”**", '"Big Boss"', "vwtq", 1),
        ("2004-5-1", "2004-05-01", "vwtq", 1),
        ("1984-xx-xx", "1984", "vwtq", 1),
        ("b||a", "a|||b", "vwtq", 1),
        ("a", "a|||b", "vwtq", 0),
        ("a||b||c", "a|||b", "vwtq", 0),
        ("73,721", "73721", "vwtq", 0),
        ("nan", "nan", "vwtq", 1),
        # ChartQA.
        ("104", "100", "h_bar", 1),
        ("106", "100", "v_bar", 0),
        ("60%", "0.6", "h_bar", 1),
        ("60%", "60", "h_bar", 0),
        ("2013", "2014", "h_bar", 1),
        ("yes", "Yes", "h_bar", 1),
        ("Yes.", "Yes", "h_bar", 0),
        ("0.0", "0", "h_bar", 0),
        # TableVQA-Bench, vtabfact.
        ("It is true.", "1", "vtabfact", 1),
        ("not true", "1", "vtabfact", 1),
        ("true or false", "1", "vtabfact", 0),
        ("0", "0", "vtabfact", 0),
        (None, "1", "vtabfact", 0),
        # CharXiv has a judge alone.
        ("7", "7", "charxiv", None),
    ],
)
def test_published_rules(prediction: str | None, gold: str, test_set: str, value: float | None) -> None:
    assert official_score(prediction, gold, test_set) == value


DIFFERENCES = {
    "a comma groups digits": ("977,633", "977633", "h_bar", 1, 0),
    "a sign of currency": ("$24,688.3", "24688.3", "h_bar", 1, 0),
    "a percent sign on a number in per cent": ("56%", "56", "h_bar", 1, 0),
    "a list of one in brackets": ("['WhatsApp']", "WhatsApp", "v_bar", 1, 0),
    "a tag around the answer": ("<yes>", "Yes", "h_bar", 1, 0),
    "a repeated label": ("ANSWER: Poor", "Poor", "h_bar", 1, 0),
    "a footnote mark in the gold answer": ("Facebook Messenger", "Facebook Messenger*", "v_bar", 1, 0),
    "a list without bars": ("Gambia, Niger", "Gambia|||Niger", "v_bar", 1, 0),
    "another year": ("2013", "2014", "v_bar", 0, 1),
    "digits grouped in a table": ("73,721", "73721", "vwtq", 1, 0),
    "two different details": ("Paris (Texas)", "Paris (France)", "vwtq", 0, 1),
    "a negated truth": ("not true", "1", "vtabfact", 0, 1),
}
"""Kind of disagreement → answer, gold answer, test set, our score, the published rule's."""


@pytest.mark.parametrize("kind", DIFFERENCES)
def test_where_ours_differs(kind: str) -> None:
    answer, gold, test_set, ours, official = DIFFERENCES[kind]
    metric = {"vtabfact": "fact", "vwtq": "exact"}.get(test_set, "relaxed")
    assert score(extract(f"FINAL ANSWER: {answer}"), gold, metric) == ours  # type: ignore[arg-type]
    assert official_score(answer, gold, test_set) == official


@given(st.text(), st.text(), st.sampled_from(["h_bar", "vwtq", "vtabfact"]))
def test_nothing_raises(prediction: str, gold: str, test_set: str) -> None:
    assert official_score(prediction, gold, test_set) in (0.0, 1.0)
