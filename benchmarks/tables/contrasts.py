"""The comparisons declared beforehand, in their order: the check of sensitivity first, then the primary contrasts.

A world in which even an oracle of the right call is not found better cannot show that another reward gains nothing. So
the oracle comes first, and where it fails, a verdict that would find nothing says that this world cannot tell. Each
comparison is tested at the full level, and only if all before it succeeded; all others are exploratory.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.results import Results
from benchmarks.stats.multiplicity import fixed_sequence
from benchmarks.stats.paired import PairedDifference, macro_paired_difference
from benchmarks.stats.ratio import ratio_of_contrasts, share_columns
from benchmarks.stats.verdicts import CANNOT_TELL, NOT_COMPUTED, verdict
from benchmarks.tables.render import each_value
from iapo.config.schema import Config

Pair = tuple[str, str]
"""A method and what it is compared with."""

SENSITIVITY, PRIMARY = "check of sensitivity", "primary"

_NUMBERS = ("delta", "low", "high", "p", "p_sequence", "detectable", "run_sd", "items_error")
"""Columns that are nan where records are missing."""


def declared_contrasts(config: Config) -> list[Pair]:
    """Return the declared comparisons whose methods are both in the run, in their order."""
    pairs = [_sensitivity(config), *config.statistics.primary]
    return [pair for pair in pairs if set(pair) <= set(config.methods) and pair[0] != pair[1]]


def _sensitivity(config: Config) -> Pair:
    return config.statistics.oracle, config.statistics.reference_method


def difference(results: Results, row: str, baseline: str, sets: Sequence[str]) -> PairedDifference:
    """Return the paired difference of two rows without faults on these test sets, over items and seeds."""
    return results.cached(
        ("difference", row, baseline, *sets),
        lambda: macro_paired_difference(
            {name: results.scores(row, name) for name in sets},
            {name: results.scores(baseline, name) for name in sets},
            paired_seeds=results.is_paired(row, baseline),
            **results.replicates(row, sets),
        ),
    )


def differences_by_seed(results: Results, row: str, baseline: str) -> NDArray[np.float64]:
    """Return each run's difference [S] of the average over the sets to its partner, or to the baseline's mean run."""
    ours, theirs = (
        np.mean([results.scores(name, each).mean(1) for each in results.sets], axis=0) for name in (row, baseline)
    )
    is_paired = results.is_paired(row, baseline) and len(ours) == len(theirs)
    return np.asarray(ours - (theirs if is_paired else theirs.mean()))


def adjusted_p_values(results: Results) -> dict[Pair, float]:
    """Return the p-values of the declared comparisons on the average over the sets, adjusted for their sequence."""
    pairs = declared_contrasts(results.config)
    found = {pair: _found(results, pair) for pair in pairs}
    p_values = [np.nan if each is None else each.p for each in found.values()]
    adjusted = dict(zip(pairs, fixed_sequence(p_values), strict=True))
    oracle = found.get(_sensitivity(results.config))
    if oracle is not None and oracle.delta <= 0:
        # A worse oracle does not open the sequence, however small its p-value.
        adjusted |= {pair: max(1.0, adjusted[pair]) for pair in pairs if pair != _sensitivity(results.config)}
    return adjusted


def is_sensitive(results: Results) -> bool | None:
    """Whether the oracle was found better than the reference method; None where the two were not compared."""
    pair = _sensitivity(results.config)
    found = _found(results, pair) if pair in declared_contrasts(results.config) else None
    return None if found is None else found.p < 1 - results.config.statistics.level and found.delta > 0


def worded(results: Results, found: PairedDifference, p: float) -> str:
    """Return the verdict on a comparison, which a run without sensitivity cannot give.

    Args:
        results: of the run.
        found: the comparison.
        p: its adjusted p-value; nan where a comparison before it in the sequence could not be made, so claims nothing.
    """
    statistics = results.config.statistics
    words = verdict(found, 1.0 if np.isnan(p) else p, level=statistics.level, margin=statistics.margin)
    if words in ("better", "worse") or is_sensitive(results) is not False:
        return words
    return CANNOT_TELL


def contrast_table(results: Results) -> pd.DataFrame:
    """Compare what was declared beforehand, on the average over the sets, in a fixed sequence.

    Returns:
        One row per comparison: ``delta`` in [-1, 1] with its interval, ``p`` and ``p_sequence`` (the largest so far),
        ``detectable`` at the configured power, ``verdict``. nan and the reason where records are missing.
        ``run_sd``: standard deviation of the runs' differences. ``items_error``: standard error from the questions.
        ``oracle_share``: the difference as a share of what the oracle gains over the reference method, with its
        interval (Fieller), or nan and ``oracle_share_reason``. ``by_seed``: each run's difference.
    """
    statistics = results.config.statistics
    rows = []
    for pair, p in adjusted_p_values(results).items():
        found = _found(results, pair)
        role = SENSITIVITY if pair == _sensitivity(results.config) else PRIMARY
        row: dict[str, object] = {"method": pair[0], "baseline": pair[1], "role": role}
        if found is None:
            fault = results.fault(pair[0], results.sets) or results.fault(pair[1], results.sets)
            row |= dict.fromkeys(_NUMBERS, np.nan)
            row |= {"verdict": f"{NOT_COMPUTED}{fault}", "by_seed": ""} | share_columns(f"{NOT_COMPUTED}{fault}")
        else:
            row |= {"delta": found.delta, "low": found.low, "high": found.high, "p": found.p, "p_sequence": p}
            row |= {"detectable": found.detectable(statistics.power, statistics.level)}
            each = differences_by_seed(results, *pair)
            row |= {"run_sd": np.std(each, ddof=1) if len(each) > 1 else np.nan, "items_error": found.items_error}
            row |= {"verdict": worded(results, found, p), **_oracle_share(results, pair)}
            row |= {"by_seed": each_value(each)}
        rows.append(row)
    columns = ["method", "baseline", "role", "delta", "low", "high", "p", "p_sequence", "detectable"]
    columns += ["run_sd", "items_error", "verdict", "by_seed"]
    columns += ["oracle_share", "oracle_share_low", "oracle_share_high", "oracle_share_reason"]
    return pd.DataFrame(rows, columns=columns)


def _oracle_share(results: Results, pair: Pair) -> dict[str, object]:
    """Columns on the difference of a pair as a share of the oracle's gain."""
    oracle, reference = _sensitivity(results.config)
    if pair == (oracle, reference):
        return share_columns("it is the oracle's gain")
    if not is_sensitive(results):
        return share_columns("the oracle is not found better than the reference method")
    names = dict.fromkeys((*pair, oracle, reference))
    by_name = {name: {each: results.scores(name, each) for each in results.sets} for name in names}
    found = ratio_of_contrasts(
        by_name,
        {pair[0]: 1.0, pair[1]: -1.0},
        {oracle: 1.0, reference: -1.0},
        paired_seeds=results.is_paired(*names),
        **results.replicates(reference, results.sets),
    )
    return share_columns(found)


def _found(results: Results, pair: Pair) -> PairedDifference | None:
    known = set(results.records["method"])
    if any(name not in known or results.fault(name, results.sets) for name in pair):
        return None
    return difference(results, *pair, results.sets)
