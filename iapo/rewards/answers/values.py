"""Numbers and dates as answers write them: with signs, grouped digits, magnitudes, units, per cent. No torch."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

_MAGNITUDES = {
    **dict.fromkeys(("k", "K", "thousand", "thousands"), 1e3),
    **dict.fromkeys(("m", "M", "mn", "mio", "million", "millions"), 1e6),
    **dict.fromkeys(("b", "B", "bn", "billion", "billions"), 1e9),
    **dict.fromkeys(("T", "tn", "trillion", "trillions"), 1e12),
    "hundred": 1e2,
}
"""Words and letters behind a number → their factor; letters as written, words in any case."""

_PERCENT = re.compile(r"\s*(?:%|per\s?cent(?:age(?:\s+points?)?)?\b|pct\b\.?)", re.IGNORECASE)

_NO_UNIT = frozenset(
    ("and", "or", "not", "no", "nor", "never", "either", "neither", "maybe", "perhaps", "true", "false", "isn't")
    + ("to", "than", "but", "out", "minus", "plus", "times", "below", "bc", "bce", "half", "third", "quarter")
    + ("dozen", "dozens", "score", "gross", "lac", "lakh", "lakhs", "crore", "crores")
)
"""Words behind a number that change its value or take it back; other words there are its unit."""

_UNIT = re.compile(r"(?:[^\W\d_]|[°²³/'’().$€£¥₹-])+")
_MAX_UNIT_WORDS = 3

_ABOUT = re.compile(r"(?:[~≈∼≃≅]|(?:about|around|approximately|approx\.?|roughly|circa|ca\.|c\.)\s)\s*", re.IGNORECASE)
_SIGN = re.compile(r"[+-]?")
_CURRENCY = re.compile(r"(?:US|USD|EUR|GBP|A|C)?\s?[$€£¥₹]\s*|(?:USD|EUR|GBP)\s+")
_DIGITS = re.compile(
    r"(?:\d{1,3}(?:[,\u0020\u00a0\u2009\u202f]\d{3})+(?!\d)|\d+)(?:\.\d*)?(?:[eE][+-]?\d{1,3})?|\.\d+(?:[eE][+-]?\d{1,3})?",
    re.ASCII,
)
_PLAIN = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?", re.ASCII)
_POWER = re.compile(r"\s*[×x*]\s*10\s*\^?\s*\{?([+-]?\d{1,3})\}?", re.ASCII)
_FRACTION = re.compile(r"(?P<top>[^/:]{1,40})\s*(?P<mark>[/:])\s*(?P<bottom>[^/:]{1,40})")
_GROUPING = re.compile(r"[,\u0020\u00a0\u2009\u202f]")
_DASHES = str.maketrans({"\N{MINUS SIGN}": "-", "–": "-", "‒": "-", "—": "-", "‐": "-", "‑": "-"})
_DATE = re.compile(r"(x{2}|x{4}|\d{1,4})-(xx|\d{1,2})-(xx|\d{1,2})", re.ASCII)


@dataclass(frozen=True)
class Number:
    """A number as an answer states it."""

    value: float
    is_percent: bool
    """Whether a percent sign or word follows: 60 % is then 60 or .6."""


def is_plain_number(text: str) -> bool:
    """Whether a text is digits with at most a sign, a point and an exponent, as TableVQA-Bench's evaluator reads."""
    return _PLAIN.fullmatch(text.strip()) is not None


def read_gold(text: str) -> Number | None:
    """Read a gold answer that is nothing but a number, perhaps with a sign of currency, magnitude or per cent.

    Returns:
        None for any other text, one with a unit included: its unit is part of the answer.
    """
    return _read(text, with_units=False)


def read_prediction(text: str) -> Number | None:
    """Read a model's answer as a number: units, "about", fractions and ratios (``19/44``, ``19:44``) included.

    Returns:
        None unless the text states exactly one finite number and nothing that changes or takes back its value.
    """
    number = _read(text, with_units=True)
    if number is None and (fraction := _FRACTION.fullmatch(text.strip())):
        top, bottom = (_read(fraction[part], with_units=False) for part in ("top", "bottom"))
        if top and bottom and bottom.value and not (top.is_percent or bottom.is_percent):
            number = _finite(top.value / bottom.value, is_percent=False)
    return number


def read_date(text: str) -> tuple[int | None, int | None, int | None] | None:
    """Read ``year-month-day``, where ``xx`` stands for an unknown part, as TableVQA-Bench's evaluator does.

    Returns:
        Year, month and day, None for an unknown one; None if the text is no such date.
    """
    parts = _DATE.fullmatch(text.translate(_DASHES).strip().lower())
    if parts is None:
        return None
    year, month, day = (None if part.startswith("x") else int(part) for part in parts.groups())
    is_date = (month is None or 1 <= month <= 12) and (day is None or 1 <= day <= 31)
    return (year, month, day) if is_date and (month, day) != (None, None) else None


def _read(text: str, *, with_units: bool) -> Number | None:
    text = text.translate(_DASHES).strip()
    start = 0
    if with_units and (about := _ABOUT.match(text)):
        start = about.end()
    sign, start = _take(_SIGN, text, start)
    if currency := _CURRENCY.match(text, start):
        start = currency.end()
        if not sign:
            sign, start = _take(_SIGN, text, start)
    start += len(text[start:]) - len(text[start:].lstrip())
    digits = _DIGITS.match(text, start)
    if digits is None:
        return None
    value = float(_GROUPING.sub("", digits[0])) * (-1 if sign == "-" else 1)
    rest = text[digits.end() :]
    if power := _POWER.match(rest):
        value, rest = value * 10.0 ** int(power[1]), rest[power.end() :]
    factor, rest = _magnitude(rest)
    percent = _PERCENT.match(rest)
    if percent:
        rest = rest[percent.end() :]
    rest = rest.strip().rstrip(".,;:!?*").strip()
    if rest and not (with_units and _is_unit(rest)) and not _CURRENCY.fullmatch(rest + " "):
        return None
    return _finite(value * factor, is_percent=percent is not None)


def _take(pattern: re.Pattern[str], text: str, start: int) -> tuple[str, int]:
    found = pattern.match(text, start)
    return (found[0], found.end()) if found else ("", start)


def _magnitude(rest: str) -> tuple[float, str]:
    """The factor that a word or letter right behind a number stands for, 1 without one, and what follows it."""
    word = re.match(r"\s*-?([^\W\d_]+)(?![^\W_])", rest)
    if word is None:
        return 1.0, rest
    factor = _MAGNITUDES.get(word[1]) or (_MAGNITUDES.get(word[1].lower()) if len(word[1]) > 1 else None)
    return (factor, rest[word.end() :]) if factor else (1.0, rest)


def _is_unit(rest: str) -> bool:
    words = rest.split()
    if len(words) > _MAX_UNIT_WORDS or any(word.lower().strip(".,()") in _NO_UNIT for word in words):
        return False
    return all(_UNIT.fullmatch(word) for word in words)


def _finite(value: float, *, is_percent: bool) -> Number | None:
    return Number(value, is_percent) if math.isfinite(value) else None
