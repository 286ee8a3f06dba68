"""Every word of the mini world, for its word-level tokenizer."""

from __future__ import annotations

from functools import cache

from iapo.data.gapminder import INDICATORS, LEAST, MOST, countries, years

PANELS = tuple(f"row {row} column {column}" for row in (1, 2) for column in (1, 2))
"""Labels of a figure's four panels, by position."""

_FUNCTION_WORDS = [
    "what",
    "is",
    "the",
    "of",
    "in",
    "for",
    "more",
    "than",
    "value",
    "true",
    "false",
    "chart",
    "table",
    "figure",
]
_HINT_WORDS = ["hint", "question", "names"]
"""Of the shortcut world only, so that another world's weights do not depend on it."""
_PUNCTUATION = (":", ",", ".", "?")


def numbers() -> list[str]:
    """Every value that a cell can hold."""
    return [str(value) for value in range(LEAST, MOST + 1)]


@cache
def words(hints: bool = False) -> tuple[str, ...]:
    """All words, those of hints and thoughts where asked for; a panel's label is one, since a tool names it whole."""
    indicator_words = [word for indicator in INDICATORS for word in indicator.split()]
    return tuple(
        dict.fromkeys(
            [*PANELS, *countries(), *years(), *numbers(), *indicator_words, *_FUNCTION_WORDS]
            + [*(_HINT_WORDS if hints else []), *_PUNCTUATION]
        )
    )
