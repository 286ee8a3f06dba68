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

INDICATORS = ("life expectancy", "income", "population")
"""Units: years; gross domestic product per person in hundreds of dollars; millions of people."""

MIN_VALUE, MAX_VALUE = 10, 99
"""Range of the values used: a cell of a figure has room for two digits."""

_COUNTRIES = 40
"""Number of countries used."""

_SHARES: Mapping[Split, float] = {"train": 0.6, "dev": 0.15, "test": 0.25}


@dataclass(frozen=True)
class Table:
    """One indicator for the countries of one split."""

    indicator: str
    values: Mapping[str, Mapping[str, int]]
    """Country → year → value."""


@cache
def indicator_values() -> Mapping[str, Mapping[str, Mapping[str, int]]]:
    """Return indicator → country → year → value, for the countries with the most values in range."""
    # Imported late: plotly is slow to import, and only drawing the data needs it.
    from plotly.express import data

    frame = data.gapminder()
    columns = {
        "life expectancy": frame["lifeExp"],
        "income": frame["gdpPercap"] / 100,
        "population": frame["pop"] / 1e6,
    }
    values: dict[str, dict[str, dict[str, int]]] = {name: {} for name in INDICATORS}
    for name, column in columns.items():
        for country, year, value in zip(frame["country"], frame["year"], column, strict=True):
            if country.isalpha() and MIN_VALUE <= round(value) <= MAX_VALUE:
                values[name].setdefault(country, {})[str(year)] = round(value)
    chosen = _countries_with_most_values(values)
    return {name: {country: rows[country] for country in chosen if country in rows} for name, rows in values.items()}


def _countries_with_most_values(values: Mapping[str, Mapping[str, Mapping[str, int]]]) -> list[str]:
    count: dict[str, int] = {}
    for rows in values.values():
        for country, years in rows.items():
            count[country] = count.get(country, 0) + len(years)
    return sorted(sorted(count), key=lambda country: -count[country])[:_COUNTRIES]


def countries() -> list[str]:
    """Return the names of the countries used, in alphabetical order."""
    return sorted({country for rows in indicator_values().values() for country in rows})


def years() -> list[str]:
    """Return the years used, in order."""
    rows = indicator_values()["life expectancy"].values()
    return sorted({year for row in rows for year in row})


def split_tables(seed: int) -> dict[Split, list[Table]]:
    """Return the tables of each split.

    Countries are shuffled once; for each indicator they are assigned to the splits from a different starting point,
    so that each country is in train for at least one indicator.
    """
    names = countries()
    random.Random(seed).shuffle(names)
    tables: dict[Split, list[Table]] = {split: [] for split in _SHARES}
    for turn, indicator in enumerate(INDICATORS):
        start = turn * len(names) // len(INDICATORS)
        rotated = names[start:] + names[:start]
        rows = indicator_values()[indicator]
        first = 0
        for split, share in _SHARES.items():
            last = first + round(share * len(names))
            members = [country for country in rotated[first:last] if country in rows]
            tables[split].append(Table(indicator, {c: rows[c] for c in members}))
            first = last
    return tables
