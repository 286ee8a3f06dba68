"""One setting changed at a time, each against the method with all settings as configured."""

from __future__ import annotations

import numpy as np
import pandas as pd

from benchmarks.results import Results
from benchmarks.stats import holm, verdict
from benchmarks.tables.main import NOT_COMPUTED, difference
from iapo.config import ablation_name

Row = dict[str, object]


def ablation_table(results: Results) -> pd.DataFrame:
    """One row a setting and value; differences on the average over the sets, Holm over all rows.

    Args:
        results: with the runs of the ablated variants and of the method itself.
    """
    base, statistics = results.config.ablations.method, results.config.statistics
    rows: list[Row] = [{"setting": "as configured", "value": "", **_figures(results, base)}]
    differences = []
    for key, values in results.config.ablations.grid.items():
        for value in values:
            name = ablation_name(key, value)
            row: Row = {"setting": key, "value": str(value), **_figures(results, name)}
            fault = results.fault(name, results.sets) or results.fault(base, results.sets)
            found = None if fault else difference(results, name, base, results.sets)
            if found is not None:
                row |= {"delta": found.delta, "low": found.low, "high": found.high, "p": found.p}
            rows.append(row | {"fault": fault})
            differences.append(found)
    table = pd.DataFrame(rows)
    adjusted = holm([np.nan if found is None else found.p for found in differences])
    compared = sum(found is not None for found in differences)
    table["verdict"] = [
        "",
        *(
            f"{NOT_COMPUTED}{row['fault']}"
            if found is None
            else verdict(found, p, level=statistics.level, power=statistics.power, comparisons=compared)
            for row, found, p in zip(rows[1:], differences, adjusted, strict=True)
        ),
    ]
    return table.drop(columns=["fault"], errors="ignore")


def _figures(results: Results, name: str) -> Row:
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
