"""The vocabulary of the mini world, for its word-level tokenizer."""

from __future__ import annotations

from functools import cache

from iapo.config.mini_world import DataConfig
from iapo.data.contexts import FAMILY_WORDS, NOUN
from iapo.data.mini_world.gapminder import INDICATORS, countries, numbers, years

PANEL_COLUMNS = 5
"""Panels side by side in a figure."""

PANELS = tuple(f"row {row} column {column}" for row in (1, 2) for column in range(1, PANEL_COLUMNS + 1))
"""Labels of a figure's ten panels, the most that are looked for (:func:`iapo.data.boxes.find_panels`)."""

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
    *dict.fromkeys(NOUN.values()),
]

_HINT_WORDS = ["hint", "question", "names"]
"""Added only where a run uses hints, so that the vocabulary, and with it the weights, of other runs stay the same."""

_PUNCTUATION = (":", ",", ".", "?")


@cache
def words(data: DataConfig) -> tuple[str, ...]:
    """Return all words; a label counts as one word, since tool calls name it as a whole.

    Args:
        data: the world, whose values and hints have words of their own.
    """
    indicator_words = [word for indicator in INDICATORS for word in indicator.split()]
    return tuple(
        dict.fromkeys(
            [*PANELS, *countries(), *years(), *numbers(data.value_unit), *indicator_words, *_FUNCTION_WORDS]
            + [*FAMILY_WORDS.values(), *(_HINT_WORDS if data.hint_rate is not None else []), *_PUNCTUATION]
        )
    )
