"""Extraction and matching of final answers, shared by the outcome reward and the evaluation.

Matching is by rules alone and needs no judge model. Without torch, so that the results table can use it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from iapo.types import Metric

_MARK = re.compile(r"final answer\s*:", re.IGNORECASE)


_END = re.compile(r"TERMINATE|\n|\r")


_WRAPPING = " \t*`\"'"
"""Characters stripped from both ends of an answer: white space, quotes and Markdown emphasis."""


_YEARS = range(1900, 2101)
"""Integers treated as years, for which 5 % would be far too much."""


_TOLERANCE = 0.05
"""ChartQA's relaxed accuracy (arXiv 2203.10244): 5 % of the gold value."""


_CURRENCY = "$€£¥₹"
"""Signs stripped from a number."""


_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d{1,3})?", re.IGNORECASE | re.ASCII)


_GROUPED = re.compile(r"(?<=\d),(?=\d{3}(\D|$))", re.ASCII)
"""A comma that groups thousands."""


_NOT_FINITE = ("inf", "infinity", "nan")
"""Predictions that ``relaxed`` always rejects."""


_TRUTHS = {"true": "1", "1": "1", "false": "0", "0": "0"}
"""Words that state a truth value → ``1`` or ``0``."""


_WORD = re.compile(r"\w+")


def extract(text: str) -> str | None:
    """Extract the final answer from a model's turn.

    Args:
        text: text of the turn.

    Returns:
        The text after the last ``FINAL ANSWER:``, up to TERMINATE, the end of the line or the end of the text.
        Surrounding quotes and emphasis are removed, and so is one final full stop unless it ends an abbreviation such
        as ``U.S.``. None if there is no ``FINAL ANSWER:`` or nothing after it.
    """
    start: int | None = None
    for mark in _MARK.finditer(text):
        start = mark.end()
    if start is None:
        return None
    answer = _END.split(text[start:], maxsplit=1)[0].strip(_WRAPPING)
    answer = _without_full_stop(answer).strip(_WRAPPING)
    return answer or None


def _without_full_stop(answer: str) -> str:
    is_abbreviation = re.search(r"(^|\W)[^\W\d]\.[^\W\d]\.$", answer) is not None
    return answer if is_abbreviation else answer.removesuffix(".")


def score(prediction: str | None, gold: str, metric: Metric) -> float:
    """Return 1.0 for a right answer and 0.0 for any other.

    Several answers are compared as sets: the prediction must name all gold answers and no other.

    Args:
        prediction: extracted answer, several joined by ``||``; None counts as wrong.
        gold: gold answer, several joined by ``|||``; ``0`` or ``1`` for the metric ``fact``.
        metric: ``exact`` ignores case, surrounding space and final punctuation. ``relaxed`` also accepts numbers within
            5 % of the gold value, except that two integers from 1900 to 2100 count as years and must be equal.
            ``fact`` expects a text that states exactly one of true and false.

    Raises:
        ValueError: if the metric is unknown.
    """
    if prediction is None:
        return 0.0
    if metric == "fact":
        return float(_truth(prediction) == _truth(gold) is not None)
    if metric not in ("exact", "relaxed"):
        raise ValueError(f"found metric {metric!r}; expected exact, relaxed or fact")
    predicted = _items(prediction, "||")
    golds = _items(gold, "|||")
    same = _close if metric == "relaxed" else _equal
    return float(_same_sets(predicted, golds, same))


def _truth(text: str) -> str | None:
    """Return the truth value that a text states, ``1`` or ``0``; None if it states both or neither."""
    stated = {_TRUTHS[word] for word in _WORD.findall(text.lower()) if word in _TRUTHS}
    return stated.pop() if len(stated) == 1 else None


def _items(text: str, separator: str) -> list[str]:
    """Split a text into its distinct, normalised answers."""
    return list(dict.fromkeys(_normalised(item) for item in text.split(separator)))


def _normalised(text: str) -> str:
    normalised = " ".join(text.casefold().split()).strip(_WRAPPING)
    return normalised.rstrip(".,;:!?").strip() or normalised


def _same_sets(predicted: list[str], golds: list[str], same: Callable[[str, str], bool]) -> bool:
    nothing_extra = all(any(same(p, g) for g in golds) for p in predicted)
    nothing_missing = all(any(same(p, g) for p in predicted) for g in golds)
    return nothing_extra and nothing_missing


def _equal(prediction: str, gold: str) -> bool:
    return prediction == gold


def _close(prediction: str, gold: str) -> bool:
    if prediction.lstrip("+-") in _NOT_FINITE:
        return False
    if prediction == gold:
        return True
    found, wanted = _number(prediction), _number(gold)
    if found is None or wanted is None:
        return False
    if _is_year(found) and _is_year(wanted):
        return found == wanted
    return abs(found - wanted) <= _TOLERANCE * abs(wanted)


def _is_year(value: float) -> bool:
    return value.is_integer() and int(value) in _YEARS


def _number(text: str) -> float | None:
    """Parse a normalised text as a number, ignoring currency and percent signs; None if it is not one."""
    plain = text.replace("\N{MINUS SIGN}", "-").strip().rstrip("%").strip()
    sign, digits = ("-", plain[1:]) if plain.startswith("-") else ("", plain)
    digits = _GROUPED.sub("", digits.strip().strip(_CURRENCY).strip())
    if not _NUMBER.fullmatch(sign + digits):
        return None
    value = float(sign + digits)
    return value if math.isfinite(value) else None
