"""The numbers of the mini world: gapminder's tables as shipped with plotly (data by Gapminder, CC-BY).

The unit of the split is one country's series of one indicator over twelve years: no pair of country and indicator is
in two splits, yet every country's name occurs in training with some indicator.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from iapo.types import Split

INDICATORS = ("life expectancy", "income", "population", "output")
"""Units: years; gross domestic product per person in hundreds of dollars; millions of people; gross domestic product
in billions of dollars."""

_TWO_DIGITS = range(10, 100)
"""What a cell of a figure has room for."""

_COARSEST = 10
"""The unit at which the most countries have a value of two digits."""

_DEALT: tuple[Split, ...] = ("test", "train", "dev", "train")
"""Which split each of a country's indicators goes to, in their shuffled order."""


@dataclass(frozen=True)
class Table:
    """One indicator for the countries of one split."""

    indicator: str
    values: Mapping[str, Mapping[str, int]]
    """Country → year → value."""


@cache
def indicator_values(unit: int) -> Mapping[str, Mapping[str, Mapping[str, int]]]:
    """Return indicator → country → year → value, for values of two digits.

    Args:
        unit: what the values are rounded to multiples of. With tens, the labels of a figure often share a value: a
            call on another label than the one asked for shows the right answer now and then, as a real figure's trend
            or neighbours would suggest it.
    """
    # Imported late: plotly is slow to import, and only drawing the data needs it.
    from plotly.express import data

    frame = data.gapminder()
    columns = {
        "life expectancy": frame["lifeExp"],
        "income": frame["gdpPercap"] / 100,
        "population": frame["pop"] / 1e6,
        "output": frame["gdpPercap"] * frame["pop"] / 1e9,
    }
    values: dict[str, dict[str, dict[str, int]]] = {name: {} for name in INDICATORS}
    for name, column in columns.items():
        for country, year, value in zip(frame["country"], frame["year"], column, strict=True):
            rounded = unit * round(value / unit)
            if _TWO_DIGITS.start <= rounded < _TWO_DIGITS.stop:
                values[name].setdefault(country, {})[str(year)] = rounded
    return values


def countries() -> list[str]:
    """Return the names of the countries, in alphabetical order."""
    return sorted({country for rows in indicator_values(_COARSEST).values() for country in rows})


def years() -> list[str]:
    """Return the years used, in order."""
    rows = indicator_values(_COARSEST)["life expectancy"].values()
    return sorted({year for row in rows for year in row})


def numbers(unit: int) -> list[str]:
    """Return every value that a cell can show, in order.

    Args:
        unit: what the values are rounded to multiples of.
    """
    return [str(value) for value in _TWO_DIGITS[::unit]]


def split_tables(seed: int, unit: int) -> dict[Split, list[Table]]:
    """Return the tables of each split.

    The indicators of each country are shuffled and dealt out to the splits, test and train first, so that nearly every
    country is in both with different indicators; the few with one indicator are in train alone.

    Args:
        seed: seed of the shuffling.
        unit: what the values are rounded to multiples of.
    """
    values = indicator_values(unit)
    rng = random.Random(seed)
    tables: dict[Split, dict[str, dict[str, Mapping[str, int]]]] = {
        split: {indicator: {} for indicator in INDICATORS} for split in dict.fromkeys(_DEALT)
    }
    for country in countries():
        known = [indicator for indicator in INDICATORS if country in values[indicator]]
        rng.shuffle(known)
        # A country with a single indicator is in train alone.
        splits = _DEALT if len(known) > 1 else _DEALT[1:]
        for indicator, split in zip(known, splits, strict=False):
            tables[split][indicator][country] = values[indicator][country]
    return {split: [Table(*each) for each in by_indicator.items()] for split, by_indicator in tables.items()}
