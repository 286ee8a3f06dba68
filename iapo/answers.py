"""One extractor and one matcher of answers, for the reward and the evaluation alike. No judge needed."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from iapo.types import Metric

_MARK = re.compile(r"final answer\s*:", re.IGNORECASE)
_END = re.compile(r"TERMINATE|\n|\r")
_WRAPPING = " \t*`\"'"
_YEARS = range(1900, 2101)
_TOLERANCE = 0.05
"""ChartQA's relaxed accuracy (arXiv 2203.10244): 5 % of the gold value."""
_CURRENCY = "$€£¥₹"
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d{1,3})?", re.IGNORECASE | re.ASCII)
_GROUPED = re.compile(r"(?<=\d),(?=\d{3}(\D|$))", re.ASCII)
_NOT_FINITE = ("inf", "infinity", "nan")
_TRUTHS = {"true": "1", "1": "1", "false": "0", "0": "0"}
_WORD = re.compile(r"\w+")


def extract(text: str) -> str | None:
    """The answer that a text ends with.

    Args:
        text: a model's turn.

    Returns:
        What follows the last ``FINAL ANSWER:`` up to TERMINATE, a line end or the end of the text, without
        wrapping quotes or emphasis and without one closing full stop, unless the stop ends an abbreviation
        such as ``U.S.``; None where there is no mark or nothing behind it.
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
    """1.0 for a right answer, 0.0 for any other.

    Args:
        prediction: an extracted answer, several joined by ``||``; None is wrong.
        gold: the right answer, several joined by ``|||``; for ``fact`` ``0`` or ``1``.
        metric: ``exact`` folds case, outer space and closing punctuation; ``relaxed`` also accepts numbers
            within 5 % (integers 1900–2100 on both sides are years and must be equal); ``fact`` wants just
            one of true and false. Several answers are compared as sets: all of them and no other.

    Raises:
        ValueError: for an unknown metric.
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
    """``1`` or ``0``; None where both or neither are said."""
    said = {_TRUTHS[word] for word in _WORD.findall(text.lower()) if word in _TRUTHS}
    return said.pop() if len(said) == 1 else None


def _items(text: str, separator: str) -> list[str]:
    return list(dict.fromkeys(_folded(item) for item in text.split(separator)))


def _folded(text: str) -> str:
    folded = " ".join(text.casefold().split()).strip(_WRAPPING)
    return folded.rstrip(".,;:!?").strip() or folded


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
    """The number that a folded text is, without its unit signs; None for anything else."""
    plain = text.replace("\N{MINUS SIGN}", "-").strip().rstrip("%").strip()
    sign, digits = ("-", plain[1:]) if plain.startswith("-") else ("", plain)
    digits = _GROUPED.sub("", digits.strip().strip(_CURRENCY).strip())
    if not _NUMBER.fullmatch(sign + digits):
        return None
    value = float(sign + digits)
    return value if math.isfinite(value) else None
