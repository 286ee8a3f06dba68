"""The real numbers behind mini: gapminder's tables as shipped by plotly (data by Gapminder, CC-BY).

A *country–indicator table*, twelve years of one country and one indicator, is the unit of the split: no
pair of country and indicator is on two sides, yet every country's name is trained on some indicator.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from iapo.types import Split

INDICATORS = ("life expectancy", "income", "population")
"""Years; gross domestic product per person in hundreds of dollars; millions of people."""

LEAST, MOST = 10, 99
"""Only two-digit values are drawn: a cell of a figure holds no more."""

_COUNTRIES = 40
_SHARES: Mapping[Split, float] = {"train": 0.6, "dev": 0.15, "test": 0.25}


@dataclass(frozen=True)
class Table:
    """One indicator over the countries of one split: country → year → value."""

    indicator: str
    values: Mapping[str, Mapping[str, int]]


@cache
def indicator_values() -> Mapping[str, Mapping[str, Mapping[str, int]]]:
    """Indicator → country → year → value, for the countries with the most drawable values."""
    # plotly takes a second to import, and only drawing data needs it.
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
            if country.isalpha() and LEAST <= round(value) <= MOST:
                values[name].setdefault(country, {})[str(year)] = round(value)
    chosen = _most_drawable(values)
    return {name: {country: rows[country] for country in chosen if country in rows} for name, rows in values.items()}


def _most_drawable(values: Mapping[str, Mapping[str, Mapping[str, int]]]) -> list[str]:
    count: dict[str, int] = {}
    for rows in values.values():
        for country, years in rows.items():
            count[country] = count.get(country, 0) + len(years)
    return sorted(sorted(count), key=lambda country: -count[country])[:_COUNTRIES]


def countries() -> list[str]:
    """The countries drawn, by name."""
    return sorted({country for rows in indicator_values().values() for country in rows})


def years() -> list[str]:
    """The years drawn, in order."""
    rows = indicator_values()["life expectancy"].values()
    return sorted({year for row in rows for year in row})


def split_tables(seed: int) -> dict[Split, list[Table]]:
    """The tables of each split.

    Countries are shuffled once and, for each indicator, dealt to the splits from another starting point, so
    that each country is in train for at least one indicator.
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
