"""Gold answers as their sources write them, read by test set into the stored form.

WikiTableQuestions joins several answers by ``|``; ChartQA writes them as a list in brackets. Elsewhere both characters
are text. The stored form joins answers by ``|||``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping

from iapo.data.records import LeftOutError, Record
from iapo.types import Metric

_TRUTHS = {"1": "1", "true": "1", "0": "0", "false": "0"}

_QUOTED = r"""\s*(?:"[^"]*"|'(?:[^'\\]|\\.)*')\s*(?=,|$)"""
"""An item in quotes, which may hold commas and brackets, up to the comma behind it."""

_QUOTED_ITEM = re.compile(_QUOTED)
_ITEM = re.compile(rf"{_QUOTED}|[^,]+")
_ITEM_OF_SPACED_LIST = re.compile(rf"{_QUOTED}|(?:[^,]|(?<=\d),(?=\d{{3}}(?!\d)))+")
"""As the item of any list, but a comma without a space that groups the digits of a number belongs to the item."""


def gold_answer(record: Record, test_set: str, metric: Metric, labels: Collection[str]) -> str:
    """Return the gold answer as one line: several answers joined by ``|||``, truth values as ``1`` and ``0``.

    Args:
        record: a record with ``answer``: text, a number, a truth value, or a list of these.
        test_set: determines how the source writes several answers.
        metric: the test set's metric.
        labels: labels of the figure.

    Raises:
        LeftOutError: if the answer or a part of it is missing: blank, NaN or an infinity, null, or one of the texts
            that programs write for these, unless the figure has it as a label. Also if the metric is ``fact`` and the
            answer is no truth value.
    """
    value = record["answer"]
    texts = [_text(each) for each in (value if isinstance(value, list) else [value])]
    split = _NOTATIONS.get(test_set, _one)
    answers = [answer for text in texts if text is not None for answer in split(text) if answer]
    if not answers or None in texts or any(_is_missing(answer) and answer not in labels for answer in answers):
        raise LeftOutError(record, "no answer", f"answer is {value!r}; expected text or a number")
    if metric != "fact":
        return "|||".join(answers)
    truth = _TRUTHS.get(answers[0].casefold()) if len(answers) == 1 else None
    if truth is None:
        raise LeftOutError(record, "no truth value", f"answer is {value!r}; expected 0, 1, true or false")
    return truth


def _text(value: object) -> str | None:
    """The text of one value, white space collapsed; None for a number that is not finite and for other types."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return " ".join(str(value).split()) if isinstance(value, str | int | float) else None


def _is_missing(answer: str) -> bool:
    # "none" in small letters is a word that people answer with.
    return answer == "None" or answer.casefold() in ("nan", "null")


def _one(text: str) -> list[str]:
    return [text]


def _barred(text: str) -> list[str]:
    return [item.strip() for item in text.split("|")]


def _bracketed(text: str) -> list[str]:
    items = text[1:-1]
    if not (text.startswith("[") and text.endswith("]")) or re.search(r"[\[\]]", _QUOTED_ITEM.sub("", items)):
        return [text]
    pattern = _ITEM_OF_SPACED_LIST if ", " in items or " ," in items else _ITEM
    return [_unquoted(item.strip()) for item in pattern.findall(items)]


def _unquoted(item: str) -> str:
    return re.sub(r"\\(.)", r"\1", item[1:-1]).strip() if _QUOTED_ITEM.fullmatch(item) else item


_NOTATIONS: Mapping[str, Callable[[str], list[str]]] = {
    "h_bar": _bracketed,
    "v_bar": _bracketed,
    "vwtq": _barred,
    "vwtq_syn": _barred,
}
"""Test set → splitter of its source's notation; answers of other sets are taken as they are."""
