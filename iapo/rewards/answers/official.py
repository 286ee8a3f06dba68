"""Scores by each test set's own published rule, shown beside ours: what is the scorer worth? No torch.

The rules are kept as they are published, odd corners included: ChartQA's tolerance holds for years too, and
TableVQA-Bench takes ``1,000`` for a text. CharXiv's own rule asks a judge model, so it has no score here.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Mapping

from iapo.rewards.answers.folding import MAX_LENGTH

_Value = str | float | tuple[int, int, int]
"""What TableVQA-Bench compares an item by: a number, a date (year, month, day; -1 unknown) or a normalised text."""

_TOLERANCE = 0.05
_SAME_NUMBER = 1e-6

_QUOTES = str.maketrans({**dict.fromkeys("‘’´`", "'"), **dict.fromkeys("“”", '"')})
_DASHES = str.maketrans(dict.fromkeys("‐‑‒–—−", "-"))
_CITATION = re.compile(r"(?:(?<!^)\[[^\]]*\]|\[\d+\]|[•♦†‡*#+])+$")
_DETAIL = re.compile(r"(?<!^) \([^)]*\)$")
_QUOTED = re.compile(r'"([^"]*)"')
_ESCAPES = (("\\n", "\n"), ("\\p", "|"), ("\\\\", "\\"))


def official_score(prediction: str | None, gold: str, test_set: str) -> float | None:
    """Score an answer by the published rule of its test set.

    Args:
        prediction: extracted answer, several joined by ``||``; None counts as wrong.
        gold: gold answer as stored, several joined by ``|||``; ``0`` or ``1`` in vtabfact.
        test_set: one of :data:`iapo.types.TEST_SETS`.

    Returns:
        1.0 or 0.0. None where the set publishes no rule without a judge model (charxiv).
    """
    rule = _RULES.get(test_set)
    if rule is None:
        return None
    return float(prediction is not None and len(prediction) <= MAX_LENGTH and rule(prediction, gold))


def _relaxed(prediction: str, gold: str) -> bool:
    """ChartQA's relaxed accuracy (arXiv 2203.10244, section 5.1): numbers within 5 %, or else the same text."""
    found, wanted = _chart_number(prediction), _chart_number(gold)
    if found is not None and wanted:
        return abs(found - wanted) / abs(wanted) <= _TOLERANCE
    return prediction.lower() == gold.lower()


def _chart_number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def _true_or_false(prediction: str, gold: str) -> bool:
    """TableVQA-Bench's rule for vtabfact: the reply names the truth value, and not the other one."""
    states_true, states_false = "true" in prediction.lower(), "false" in prediction.lower()
    return states_true != states_false and states_true == (gold == "1")


def _same_denotation(prediction: str, gold: str) -> bool:
    """TableVQA-Bench's rule for vwtq and vwtq_syn (after WikiTableQuestions): as many values, each one matched."""
    wanted = _distinct_values(gold.replace("|||", "|"))
    found = _distinct_values(prediction.replace("||", "|"))
    return len(found) == len(wanted) and all(any(_match(w, f) for f in found) for w in wanted)


def _distinct_values(text: str) -> list[tuple[_Value, str]]:
    """Each item's value and its normalised text; items of one value are one."""
    values: dict[_Value, str] = {}
    for item in text.split("|"):
        for escape, character in _ESCAPES:
            item = item.replace(escape, character)
        values.setdefault(_value(item), _normalised(item))
    return list(values.items())


def _match(wanted: tuple[_Value, str], found: tuple[_Value, str]) -> bool:
    if wanted[1] == found[1]:
        return True
    if isinstance(wanted[0], float) and isinstance(found[0], float):
        return abs(wanted[0] - found[0]) < _SAME_NUMBER
    return isinstance(wanted[0], tuple) and wanted[0] == found[0]


def _value(text: str) -> _Value:
    try:
        number = float(text)
    except ValueError:
        return _date(text) or _normalised(text)
    return number if math.isfinite(number) else _normalised(text)


def _date(text: str) -> tuple[int, int, int] | float | None:
    parts = text.lower().split("-")
    try:
        year, month, day = (-1 if part in ("xx", "xxxx") else int(part) for part in parts)
    except ValueError:
        return None
    if (month, day) == (-1, -1):
        return float(year) if year != -1 else None
    return (year, month, day) if (month == -1 or 1 <= month <= 12) and (day == -1 or 1 <= day <= 31) else None


def _normalised(text: str) -> str:
    text = unicodedata.normalize("NFKD", text)
    text = "".join(character for character in text if unicodedata.category(character) != "Mn")
    text = text.translate(_QUOTES).translate(_DASHES).strip()
    while True:
        shorter = _CITATION.sub("", text).strip()
        shorter = _DETAIL.sub("", shorter).strip()
        if quoted := _QUOTED.fullmatch(shorter):
            shorter = quoted[1].strip()
        if shorter == text:
            break
        text = shorter
    return " ".join(text.removesuffix(".").split()).lower()


_RULES: Mapping[str, Callable[[str, str], bool]] = {
    "h_bar": _relaxed,
    "v_bar": _relaxed,
    "vwtq": _same_denotation,
    "vwtq_syn": _same_denotation,
    "vtabfact": _true_or_false,
}
