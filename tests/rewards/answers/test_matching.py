"""The one matcher: what is right, and the near misses that must stay wrong, so that hedging earns nothing."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from iapo.rewards.answers.matching import score
from iapo.types import Metric

RIGHT = [
    # Spelling of texts: case, accents, composition, quotes, dashes, white space, final punctuation.
    ("Yes.", "yes", "exact"),
    ("18–12", "18-12", "exact"),
    ("Le\u0301on", "L\u00e9on", "exact"),
    ("Leon Balcer", "Léon Balcer", "exact"),
    ("“Big Boss”", '"Big Boss"', "exact"),
    ("Guns ’n’ Roses", "Guns 'n' Roses", "exact"),
    ("new\u00a0 york", "New York", "exact"),
    ("STRASSE", "Straße", "relaxed"),
    ("Rabbit", "Rabbit**", "relaxed"),
    # Details that one of the two has.
    ("China", "China (CHN)", "exact"),
    ("Italy (ITA)", "Italy", "exact"),
    ("Oslo[1]", "Oslo", "exact"),
    ("Oslo [note 2]†", "Oslo", "exact"),
    # Numbers and dates as such.
    ("2.0", "2", "exact"),
    (".1", "0.1", "exact"),
    ("007", "7", "exact"),
    ("1e3", "1000", "exact"),
    ("73,721", "73721", "exact"),
    ("2004-5-1", "2004-05-01", "exact"),
    ("xx-05-01", "xxxx-5-1", "exact"),
    ("0", "0.0", "relaxed"),
    ("104", "100", "relaxed"),
    ("−5", "-5", "relaxed"),
    ("–5", "-5", "relaxed"),
    ("1 000", "1000", "relaxed"),
    # Currency, per cent, magnitudes, units, about.
    ("$24,688.3", "24688.3", "relaxed"),
    ("45%", "45", "relaxed"),
    ("302.38%", "3.0238", "relaxed"),
    ("60%", "0.6", "relaxed"),
    ("0.6", "60%", "relaxed"),
    ("5 percent", "5", "relaxed"),
    ("5 percentage points", "5", "relaxed"),
    ("151k", "151000", "relaxed"),
    ("213 K", "213000", "relaxed"),
    ("1.2 million", "1200000", "relaxed"),
    ("$3bn", "3 billion", "relaxed"),
    ("1.2 × 10^6", "1200000", "relaxed"),
    ("12 countries", "12", "relaxed"),
    ("5 kg/m²", "5", "relaxed"),
    ("21 °C", "21", "relaxed"),
    ("≈5", "5", "relaxed"),
    ("about 5", "5", "relaxed"),
    ("19/44", "0.431818182", "relaxed"),
    ("19:44", "0.431818182", "relaxed"),
    ("70/100", "0.7", "relaxed"),
    # Wrapping: LaTeX, boxes, brackets, tags, quotes, a repeated label.
    (r"$\boxed{7}$", "7", "relaxed"),
    (r"\(7\)", "7", "relaxed"),
    (r"\boxed{\text{Oslo}}", "Oslo", "exact"),
    (r"\frac{19}{44}", "0.431818182", "relaxed"),
    (r"50\%", "50", "relaxed"),
    (r"1{,}000", "1000", "relaxed"),
    ("['Oslo']", "Oslo", "relaxed"),
    ('["61 years and older"]', "61 years and older", "relaxed"),
    ("[2.42]", "2.42", "relaxed"),
    ("<yes>", "Yes", "relaxed"),
    ("<answer>7</answer>", "7", "relaxed"),
    ("**7**", "7", "relaxed"),
    ("ANSWER: Poor", "Poor", "relaxed"),
    # Lists, in any order.
    ("a||b", "b|||a", "exact"),
    ("[Norway, Chad]", "Norway|||Chad", "relaxed"),
    ("['O'Neill', \"Smith, J.\"]", "Smith, J.|||O'Neill", "exact"),
    ("Gambia, Niger", "Gambia|||Niger", "relaxed"),
    ("Gambia and Niger", "Niger|||Gambia", "relaxed"),
    ("1.34||1.37", "1.34|||1.37", "relaxed"),
    # Truth values.
    ("true", "1", "fact"),
    ("False.", "0", "fact"),
    ("The statement is **true**.", "1", "fact"),
    ("not true", "0", "fact"),
    ("It isn’t true", "0", "fact"),
    ("not false", "1", "fact"),
    ("untrue", "0", "fact"),
    ("0", "0", "fact"),
]

NEAR_MISSES = [
    # Another text.
    ("Less", "More", "exact"),
    ("Balcer", "Léon Balcer", "exact"),
    ("18-21", "18-12", "exact"),
    ("Léon (BEL)", "Léon (FRA)", "exact"),
    ("2001", "Season 3 (2001)", "exact"),
    ("Men", "Men (18-24)", "relaxed"),
    ("Men (25-34)", "Men (18-24)", "relaxed"),
    ("U.S. dollars", "U.S.", "exact"),
    ("-", "", "exact"),
    # Another number.
    ("2.001", "2", "exact"),
    ("106", "100", "relaxed"),
    ("-5", "5", "relaxed"),
    ("0.01", "0", "relaxed"),
    ("inf", "inf", "relaxed"),
    ("nan", "nan", "relaxed"),
    ("1e400", "1e400000", "relaxed"),
    ("557,000", "$557,000", "exact"),
    ("2004-05-02", "2004-05-01", "exact"),
    ("2004-13-01", "2004-1-13", "exact"),
    # Another year.
    ("2013", "2014", "relaxed"),
    ("2010", "2015", "relaxed"),
    ("≈2013", "2014", "relaxed"),
    ("2013.0", "2014", "relaxed"),
    ("in or before 2014", "2014", "relaxed"),
    # Another magnitude, unit or share.
    ("151k", "151", "relaxed"),
    ("151M", "151000", "relaxed"),
    ("151", "151k", "relaxed"),
    ("5 million", "5", "relaxed"),
    ("5m", "5", "relaxed"),
    ("5 hundred", "5", "relaxed"),
    ("5 dozen", "5", "relaxed"),
    ("5 lakh", "5", "relaxed"),
    ("5 and a half", "5", "relaxed"),
    ("5 g", "5 kg", "relaxed"),
    ("5", "5 kg", "exact"),
    ("60", "0.6", "relaxed"),
    ("3", "0.03", "relaxed"),
    ("60%", "0.6%", "relaxed"),
    ("600%", "0.6", "relaxed"),
    ("44/19", "0.431818182", "relaxed"),
    ("19/44", "19", "relaxed"),
    ("19/0", "0", "relaxed"),
    # Hedges: two answers, a bound, a range, a denial.
    ("5 or 6", "5", "relaxed"),
    ("5, 6", "5", "relaxed"),
    ("5 6", "5", "relaxed"),
    ("5-6", "5", "relaxed"),
    ("5±1", "5", "relaxed"),
    ("not 5", "5", "relaxed"),
    ("5 not", "5", "relaxed"),
    ("less than 5", "5", "relaxed"),
    ("at least 5", "5", "relaxed"),
    ("5 out of ten", "5", "relaxed"),
    ("63% - 41% = 22%", "22", "relaxed"),
    ("Oslo or Rome", "Oslo", "exact"),
    ("Oslo/Rome", "Oslo", "exact"),
    ("Oslo (or Rome), Paris", "Oslo", "exact"),
    ("not Oslo", "Oslo", "exact"),
    # Supersets, subsets and near-equal items of a list.
    ("a", "b|||a", "exact"),
    ("a||b||c", "b|||a", "exact"),
    ("a||b", "a", "exact"),
    ("['Oslo', 'Rome']", "Oslo", "relaxed"),
    ("[5.5, 5.4]", "5.45", "relaxed"),
    ("5.4||5.5", "5.45", "relaxed"),
    ("Gambia, Niger, Chad", "Gambia|||Niger", "relaxed"),
    ("1.34", "1.34|||1.37", "relaxed"),
    ("1,234", "1|||234", "relaxed"),
    # Truth values: both, neither, hedged, denied.
    ("true and false", "1", "fact"),
    ("true and false", "0", "fact"),
    ("True. No, false.", "0", "fact"),
    ("neither true nor false", "0", "fact"),
    ("not necessarily true", "0", "fact"),
    ("not necessarily true", "1", "fact"),
    ("not true", "1", "fact"),
    ("untrue", "1", "fact"),
    ("maybe", "1", "fact"),
    ("10", "1", "fact"),
    (None, "1", "exact"),
    ("", "1", "relaxed"),
]


@pytest.mark.parametrize(("prediction", "gold", "metric"), RIGHT)
def test_right(prediction: str, gold: str, metric: Metric) -> None:
    assert score(prediction, gold, metric) == 1


@pytest.mark.parametrize(("prediction", "gold", "metric"), NEAR_MISSES)
def test_near_misses_stay_wrong(prediction: str | None, gold: str, metric: Metric) -> None:
    assert score(prediction, gold, metric) == 0


def test_leniency_is_bounded() -> None:
    assert len(NEAR_MISSES) >= len(RIGHT)


NUMBERS = st.floats(-1e6, 1e6, allow_nan=False).map(lambda x: round(x, 2))


@given(
    NUMBERS, st.sampled_from(["{:,.2f}", "${:,.2f}", "about {:.2f}", "{:.2f} units", r"\boxed{{{:.2f}}}", "[{:.2f}]"])
)
def test_a_number_is_right_however_it_is_written(value: float, form: str) -> None:
    assert score(form.format(value), f"{value:.2f}", "relaxed") == 1


@given(NUMBERS, NUMBERS, st.sampled_from(["{}||{}", "{} or {}", "{}, {}", "[{}, {}]", "{} {}", "{}/{}/1", "{} ({})"]))
def test_two_numbers_are_not_one_answer(first: float, second: float, form: str) -> None:
    assume(first != second)
    assert not score(form.format(first, second), str(first), "relaxed")


@given(st.text(max_size=40))
def test_one_text_states_at_most_one_truth(text: str) -> None:
    assert score(text, "0", "fact") + score(text, "1", "fact") <= 1


@given(st.text(), st.text(), st.sampled_from(["exact", "relaxed", "fact"]))
def test_nothing_raises(prediction: str, gold: str, metric: Metric) -> None:
    assert score(prediction, gold, metric) in (0.0, 1.0)


def test_an_unknown_metric_is_named() -> None:
    with pytest.raises(ValueError, match="found metric 'fuzzy'"):
        score("a", "a", "fuzzy")  # type: ignore[arg-type]
