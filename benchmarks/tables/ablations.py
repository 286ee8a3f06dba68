"""The ablation table: one setting changed at a time, compared with the method as configured."""

from __future__ import annotations

import numpy as np
import pandas as pd

from benchmarks.results import Results
from benchmarks.tables.contrasts import difference
from benchmarks.tables.main import with_verdicts

Row = dict[str, object]


def ablation_table(results: Results) -> pd.DataFrame:
    """Compute accuracy and difference to the unchanged method, one row per setting and value.

    Differences are of the average over the test sets, with p-values corrected over all rows (Holm).

    Args:
        results: the runs of the ablated variants and of the method itself.
    """
    base = results.config.ablations.method
    rows: list[Row] = [{"setting": "as configured", "value": "", **_measures(results, base), **_NO_COMPARISON}]
    for name, (key, value) in results.config.ablated.items():
        row: Row = {"setting": key, "value": str(value), **_measures(results, name), **_NO_COMPARISON}
        fault = results.fault(name, results.sets) or results.fault(base, results.sets)
        if fault is None:
            found = difference(results, name, base, results.sets)
            row |= {"delta": found.delta, "low": found.low, "high": found.high, "p": found.p, "difference": found}
        rows.append(row | {"fault": fault})
    table = with_verdicts(pd.DataFrame(rows).assign(family="all"), "family", results)
    return table.drop(columns=["family", "pair", "difference", "fault", "p_adjusted", "detectable"])


_NO_COMPARISON: Row = {
    **dict.fromkeys(("delta", "low", "high", "p"), np.nan),
    **dict.fromkeys(("pair", "difference", "fault")),
}
"""Columns of a row without a comparison."""


def _measures(results: Results, name: str) -> Row:
    metrics = results.metrics[results.metrics["method"] == name]
    late = metrics[metrics["step"] > metrics["step"].max() / 2]
    penalty = late["alignment/penalty"].mean() if "alignment/penalty" in late else np.nan
    if results.fault(name, results.sets):
        return {"accuracy": np.nan, "call_rate": np.nan, "penalty": penalty, "n_seeds": 0}
    here = {each: results.of(name, each) for each in results.sets}
    return {
        "accuracy": float(np.mean([results.scores(name, each).mean() for each in here])),
        "call_rate": float(np.mean([rows["called"].mean() for rows in here.values()])),
        "penalty": penalty,
        "n_seeds": next(iter(here.values()))["seed"].nunique(),
    }
