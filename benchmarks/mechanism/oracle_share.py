"""What a comparison gains as a share of what the oracle gains over the outcome alone, in the same settings."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from benchmarks.mechanism.sparsity import SparseStudy
from benchmarks.stats.ratio import Ratio
from iapo.config.variants import Cell

ORACLE = "oracle"
"""Role of the declared comparisons that ask whether the oracle is better than the outcome alone."""

AVERAGED = "averaged"
"""In place of a setting: the mean over the scalings."""

TOO_UNCERTAIN = "too uncertain"

WIDEST = 3.0
"""Width of a share's interval beyond which it says nothing: the whole of the oracle's gain is 1."""

Pairs = Sequence[tuple[Cell, Cell]]
"""Cells and what each is compared with."""


def pairs_of(study: SparseStudy, method: str, against: str, setting: str, start: str) -> Pairs:
    """Return what a comparison is the mean of: one pair, or for :data:`AVERAGED` one under each scaling.

    Under a form of the reward the outcome alone is that with the advantage scaled alike. Pairs of which one was not
    trained are left out.
    """
    found = []
    for name in study.scalings if setting == AVERAGED else [setting]:
        cell = study.cell(method, name, start)
        outcome = against == study.config.statistics.reference_method
        base = study.outcome_alone(Cell(method, name, start)) if outcome else study.cell(against, name, start)
        if cell and base:
            found.append((cell, base))
    return found


def weights_of(pairs: Pairs) -> dict[str, float]:
    """Return condition → its weight in the mean of the pairs' differences."""
    weights: dict[str, float] = {}
    for cell, base in pairs:
        weights[cell.name] = weights.get(cell.name, 0.0) + 1 / len(pairs)
        weights[base.name] = weights.get(base.name, 0.0) - 1 / len(pairs)
    return weights


def oracle_share(study: SparseStudy, row: pd.Series, contrasts: pd.DataFrame) -> Ratio | str:
    """Return a comparison's gain as a share of the oracle's, or why there is none.

    Whether the oracle gains anything is what was declared beforehand: the mean over all scalings from that start.

    Args:
        study: the records.
        row: of ``contrasts``.
        contrasts: of :func:`benchmarks.mechanism.sparsity_tables.contrasts_table`.
    """
    statistics, start, setting = study.config.statistics, row["start"], row["setting"]
    if row["method"] == statistics.oracle:
        return "it is the oracle"
    declared = contrasts[(contrasts["role"] == ORACLE) & (contrasts["start"] == start)]
    whole = pairs_of(study, statistics.oracle, statistics.reference_method, setting, start)
    if not whole:
        return "no oracle in this setting"
    if list(declared["verdict"]) != ["better"]:
        return "the oracle is not found better"
    gain = weights_of(pairs_of(study, row["method"], row["against"], setting, start))
    try:
        share = study.share_of(gain, weights_of(whole))
    except ValueError:
        # In this setting alone the oracle's gain may be 0, and no interval of a share has an end.
        return TOO_UNCERTAIN
    return share if share.high - share.low <= WIDEST else TOO_UNCERTAIN
