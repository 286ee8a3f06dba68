"""The one rule by which an answer is right, shared by the outcome reward and the evaluation.

Matching is by rules alone and needs no judge model. It folds what the test sets' own evaluators fold and unwraps what
models wrap; what it must not accept is as much part of the rule, so that a policy cannot earn a reward by hedging: one
text is one answer. Without torch, so that the results table can use it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

from iapo.rewards.answers.folding import MAX_LENGTH, fold, list_items, unwrap, without_details
from iapo.rewards.answers.values import Number, is_plain_number, read_date, read_gold, read_prediction
from iapo.types import Metric

_YEARS = range(1900, 2101)
"""Integers treated as years, for which 5 % would be far too much."""

_TOLERANCE = 0.05
"""ChartQA's relaxed accuracy (arXiv 2203.10244): 5 % of the gold value."""

_SAME_NUMBER = 1e-6
"""Largest difference between two spellings of one number, as in TableVQA-Bench's evaluator."""

_NOT_FINITE = frozenset(("inf", "+inf", "-inf", "infinity", "+infinity", "-infinity", "nan"))
"""Folded predictions that no number is right for."""

_TRUTHS = {"true": True, "false": False, "untrue": False}
_DIGITS = {"1": True, "0": False}
_NEGATIONS = frozenset(
    ("not", "no", "never", "neither", "nor", "cannot", "hardly", "without")
    + ("isn't", "isnt", "wasn't", "aren't", "doesn't", "can't")
)
_FILLERS = frozenset(("a", "the", "at", "all", "be", "in", "fact"))
_NEAR = 4
"""Words before a truth value in which a negation is about it."""

_BETWEEN = re.compile(r"[,;]\s+(?:and\s+)?|\s+(?:and|&)\s+")
"""What stands between the items of a list in prose; a comma without a space groups digits."""

_WORD = re.compile(r"\w+(?:'\w+)?")
_CLAUSES = re.compile(r"[,.;:!?\n]")


def score(prediction: str | None, gold: str, metric: Metric) -> float:
    """Return 1.0 for a right answer and 0.0 for any other.

    Several answers are compared as sets: the prediction must name all gold answers and no other. Case, accents,
    quotes, dashes, white space, final punctuation, LaTeX, brackets and tags around an answer are ignored. Where the
    gold answer is a number, the prediction may group its digits, name a magnitude (``151k``), a unit or "about"; a
    fraction or ratio stands for its value, and where one of the two is in per cent, 60 % is 60 or .6.

    Args:
        prediction: extracted answer, several joined by ``||`` or listed in brackets; None counts as wrong.
        gold: gold answer, several joined by ``|||``; ``0`` or ``1`` for the metric ``fact``.
        metric: ``exact`` wants equal numbers, dates and texts, and ignores a final citation or parenthesis that only
            one of them has (``China (CHN)``). ``relaxed`` accepts numbers within 5 % of the gold value, except that two
            integers from 1900 to 2100 count as years and must be equal. ``fact`` expects a text that states exactly one
            of true and false; a negation reverses it.

    Raises:
        ValueError: if the metric is unknown.
    """
    if metric not in ("exact", "relaxed", "fact"):
        raise ValueError(f"found metric {metric!r}; expected exact, relaxed or fact")
    if prediction is None or len(prediction) > MAX_LENGTH:
        return 0.0
    if metric == "fact":
        stated = _truth(prediction)
        return float(stated is not None and stated == _truth(gold))
    same = _close if metric == "relaxed" else _equal
    golds = _distinct(gold.split("|||"))
    return float(any(_same_sets(items, golds, same) for items in _readings(prediction, len(golds))))


def _readings(prediction: str, n_golds: int) -> Iterator[list[str]]:
    """What a prediction may list: its items joined by bars; else those in its brackets, or between commas."""
    items = re.split(r"\|{2,}", prediction)
    yield _distinct(items)
    if len(items) == 1:
        if listed := list_items(prediction):
            yield _distinct(listed)
        if n_golds > 1:
            yield _distinct(_BETWEEN.split(unwrap(prediction)))


def _distinct(items: Iterable[str]) -> list[str]:
    return list({fold(item): item for item in map(unwrap, items)}.values())


def _same_sets(predicted: list[str], golds: list[str], same: Callable[[str, str], bool]) -> bool:
    # As many on both sides: two numbers close to one gold answer are a hedge.
    return (
        len(predicted) == len(golds)
        and all(any(same(p, g) for g in golds) for p in predicted)
        and all(any(same(p, g) for p in predicted) for g in golds)
    )


def _equal(prediction: str, gold: str) -> bool:
    found, wanted = fold(prediction), fold(gold)
    if found == wanted:
        return True
    if _same_date(prediction, gold):
        return True
    # A table's "$557,000" is a text there; only what is written as a plain number is compared by value.
    if is_plain_number(gold) and _same_number(prediction, gold, lambda _: _SAME_NUMBER):
        return True
    (found, found_details), (wanted, wanted_details) = without_details(found), without_details(wanted)
    return found == wanted and (found_details == wanted_details or not found_details or not wanted_details)


def _close(prediction: str, gold: str) -> bool:
    found = fold(prediction)
    if found in _NOT_FINITE:
        return False
    return found == fold(gold) or _same_number(prediction, gold, lambda wanted: _TOLERANCE * abs(wanted))


def _same_date(prediction: str, gold: str) -> bool:
    date = read_date(gold)
    return date is not None and date == read_date(prediction)


def _same_number(prediction: str, gold: str, tolerance: Callable[[float], float]) -> bool:
    wanted = read_gold(gold)
    found = read_prediction(prediction) if wanted else None
    if wanted is None or found is None:
        return False
    return any(_within(value, target, tolerance) for value, target in _value_pairs(found, wanted))


def _value_pairs(found: Number, wanted: Number) -> list[tuple[float, float]]:
    pairs = [(found.value, wanted.value)]
    if found.is_percent and not wanted.is_percent:
        pairs.append((found.value / 100, wanted.value))
    if wanted.is_percent and not found.is_percent:
        pairs.append((found.value, wanted.value / 100))
    return pairs


def _within(found: float, wanted: float, tolerance: Callable[[float], float]) -> bool:
    if _is_year(found) and _is_year(wanted):
        return found == wanted
    return abs(found - wanted) <= tolerance(wanted)


def _is_year(value: float) -> bool:
    return value.is_integer() and int(value) in _YEARS


def _truth(text: str) -> bool | None:
    """The truth value that a text states; None if it names both or neither, or hedges."""
    plain = unwrap(text).casefold().replace("’", "'")
    if plain in _DIGITS:
        return _DIGITS[plain]
    clauses = [_WORD.findall(clause) for clause in _CLAUSES.split(plain)]
    named = {_TRUTHS[word] for clause in clauses for word in clause if word in _TRUTHS}
    stated = {truth for clause in clauses for truth in _stated(clause)}
    return stated.pop() if len(named) == len(stated) == 1 else None


def _stated(words: list[str]) -> Iterator[bool | None]:
    """The truth value of each word for one in a clause; None where a negation stands near it but not before it."""
    for place, word in enumerate(words):
        if word in _TRUTHS:
            near = [other for other in words[max(0, place - _NEAR) : place] if other not in _FILLERS]
            negations = sum(other in _NEGATIONS for other in near)
            if negations and near[-1] not in _NEGATIONS:
                yield None
            else:
                yield _TRUTHS[word] ^ (negations % 2 == 1)
