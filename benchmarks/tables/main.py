"""The main table: one row per method and test set, and one for the unweighted average over the test sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.results import Results
from benchmarks.stats.multiplicity import holm
from benchmarks.stats.paired import PairedDifference, macro_average
from benchmarks.stats.proportions import mcnemar
from benchmarks.stats.verdicts import NOT_COMPUTED
from benchmarks.tables.contrasts import adjusted_p_values, difference, worded
from benchmarks.tables.render import each_value
from iapo.training.monitors import flags
from iapo.types import TEST_SETS

AVERAGE = "average"
"""Name of the average over the test sets, in the column of test sets."""
REPORTED = Path(__file__).parent.parent / "reported.csv"
"""Accuracies reported by others, with sources."""

Row = dict[str, object]


def main_table(results: Results) -> pd.DataFrame:
    """Compute the accuracy, tool rates and difference to the reference method of every method and test set.

    Returns:
        Rates in [0, 1]. Every interval, of a cell on one test set, of an average and of a difference alike, is over
        clusters of items and over seeds (:mod:`benchmarks.stats.paired`). Differences are paired by item, and empty
        for the reference itself or if the reference was not run. ``verdict`` uses p-values corrected over the methods
        of the same column (Holm), but for what was declared beforehand (:mod:`benchmarks.tables.contrasts`). A cell
        that lacks items or seeds is empty, and its verdict gives the reason. ``reported`` is the accuracy published
        for 3B and 7B models (``reported.csv``), ``reported_scorer`` what it was scored by. ``by_seed`` has every run's
        accuracy, ``collapsed`` the number of runs that ended below the policy they started from.
    """
    rows = [_row(results, name, *column) for name in results.rows for column in _columns(results)]
    table = pd.DataFrame(rows)
    table["profile"] = results.config.profile
    table = with_verdicts(table, "test_set", results).drop(columns=["pair", "difference", "p", "fault"])
    table = table.merge(published(), how="left", on=["method", "test_set"])
    warnings = method_flags(results)
    table["flags"] = [warnings.get(method, "") for method in table["method"]]
    return table


def difference_table(results: Results) -> pd.DataFrame:
    """Compare every row with every method on the average over the test sets.

    p-values are corrected over the rows that are compared with the same baseline (Holm), but for what was declared
    beforehand.
    """
    pairs = [(m, baseline) for baseline in results.config.methods for m in results.rows if m != baseline]
    table = with_verdicts(pd.DataFrame([_difference_row(results, *pair) for pair in pairs]), "baseline", results)
    return table.drop(columns=["pair", "difference", "fault"])


def published() -> pd.DataFrame:
    """Return published accuracies by (method, test_set), as fractions, with their scorers and sources."""
    table = pd.read_csv(REPORTED)
    rows = table[table["method"].notna() & table["test_set"].isin([*TEST_SETS, AVERAGE])]
    return pd.DataFrame(
        {
            "method": rows["method"],
            "test_set": rows["test_set"],
            "reported": rows["percent"] / 100,
            "reported_scorer": rows["scorer"],
            "reported_source": rows["source"] + ", " + rows["place"],
        }
    )


def published_on_splits(method: str) -> pd.DataFrame:
    """Return what was published about a row on the authors' own splits of the test sets, as in ``reported.csv``."""
    table = pd.read_csv(REPORTED)
    return table[(table["method"] == method) & ~table["test_set"].isin([*TEST_SETS, AVERAGE])]


def method_flags(results: Results) -> dict[str, str]:
    """Return method → the monitors that raise a flag at the end of its runs, with the seeds concerned."""
    found: dict[str, dict[str, list[str]]] = {}
    # Step 0 has dev accuracy alone: nothing was rolled out yet.
    steps = results.metrics[results.metrics["step"] > 0]
    for (method, seed), rows in steps.groupby(["method", "seed"], sort=False):
        ordered = rows.sort_values("step").dropna(axis=1, how="all").to_dict("records")
        for flag in flags([{str(k): v for k, v in row.items()} for row in ordered], results.config.monitors):
            found.setdefault(str(method), {}).setdefault(flag.name, []).append(str(seed))
    return {
        method: "; ".join(f"{name} (seed {', '.join(seeds)})" for name, seeds in kinds.items())
        for method, kinds in found.items()
    }


def _columns(results: Results) -> list[tuple[str, list[str]]]:
    """Name and test sets of each column that a row is computed on: each set alone, then all together."""
    return [*((name, [name]) for name in results.sets), (AVERAGE, results.sets)]


def _row(results: Results, name: str, column: str, sets: Sequence[str]) -> Row:
    reference = results.config.statistics.reference_method
    fault = results.fault(name, sets)
    here = {each: results.of(name, each) for each in sets}
    row: Row = {
        "method": name,
        "test_set": column,
        "n_items": sum(rows["example_id"].nunique() for rows in here.values()),
        "n_seeds": max(rows["seed"].nunique() for rows in here.values()),
        **(dict.fromkeys(("accuracy", "ci_low", "ci_high"), np.nan) if fault else _accuracy(results, name, sets)),
        **dict.fromkeys((f"delta_vs_{reference}", "delta_low", "delta_high"), np.nan),
        **(dict.fromkeys(("tool_call_rate", "tool_success_rate"), np.nan) if fault else _tool_rates(here)),
        **_runs(results, name, sets, fault),
        "pair": (name, reference) if len(sets) > 1 else None,
        "difference": None,
        "p": np.nan,
        "fault": fault,
    }
    if fault or name == reference or reference not in results.config.methods:
        return row
    if results.fault(reference, sets):
        return row | {"fault": results.fault(reference, sets)}
    found = difference(results, name, reference, sets)
    return row | {
        f"delta_vs_{reference}": found.delta,
        "delta_low": found.low,
        "delta_high": found.high,
        "difference": found,
        "p": found.p,
    }


def _accuracy(results: Results, row: str, sets: Sequence[str]) -> Row:
    average = macro_average({name: results.scores(row, name) for name in sets}, **results.replicates(row, sets))
    return {"accuracy": average.mean, "ci_low": average.low, "ci_high": average.high}


def _runs(results: Results, name: str, sets: Sequence[str], fault: str | None) -> Row:
    """Each run's accuracy, and how many of the runs ended below the policy that all of them started from."""
    if fault:
        return {"by_seed": "", "collapsed": np.nan}
    runs = _run_means(results, name, sets)
    start = results.config.start_rows.get(name, name)
    known = start != name and start in results.rows and not results.fault(start, sets)
    before = _run_means(results, start, sets)[_first_starts(results, start, len(runs))] if known else runs
    below = int((runs < before).sum()) if known else np.nan
    return {"by_seed": each_value(runs), "collapsed": below}


def _first_starts(results: Results, start: str, count: int) -> list[int]:
    """Index of the run of a start's row that each of the first seeds began with."""
    n = len(results.scores(start, results.sets[0]))
    return [number % n for number in results.starts[:count]]


def _run_means(results: Results, name: str, sets: Sequence[str]) -> NDArray[np.float64]:
    """Accuracy of each run [S], the unweighted mean over the test sets."""
    return np.mean([results.scores(name, each).mean(1) for each in sets], axis=0)


def _tool_rates(here: Mapping[str, pd.DataFrame]) -> Row:
    """Calls attempted per question, and executed per attempt; means over test sets, like the accuracy."""
    called = np.mean([rows["called"].mean() for rows in here.values()])
    succeeded = np.mean([rows["call_ok"].mean() for rows in here.values()])
    return {"tool_call_rate": called, "tool_success_rate": succeeded / called if called else np.nan}


def with_verdicts(table: pd.DataFrame, family: str, results: Results) -> pd.DataFrame:
    """Add corrected p-values, smallest detectable differences and verdicts to a table of comparisons.

    Args:
        table: a table with the columns ``pair`` (method and baseline, None where nothing was compared on the average),
            ``difference`` (None where nothing was compared), ``p`` and ``fault``.
        family: the column whose equal values mark rows that are corrected together.
        results: source of the confidence level, the power and the comparisons declared beforehand.

    Returns:
        The table with ``p_adjusted``, ``detectable`` and ``verdict``. What was declared beforehand is corrected for its
        fixed sequence, everything else within its family (Holm); a detectable difference passes the strictest step.
    """
    statistics = results.config.statistics
    # The same comparison the other way round has the same p-value.
    declared = {pair: p for (a, b), p in adjusted_p_values(results).items() for pair in ((a, b), (b, a))}
    is_declared = table["pair"].isin(list(declared))
    explored = table["p"].mask(is_declared)
    by_family = explored.groupby(table[family])
    adjusted, compared = by_family.transform(lambda p: holm(p.tolist())), by_family.transform("count")
    adjusted = adjusted.where(~is_declared, table["pair"].map(declared))
    compared = compared.where(~is_declared, 1)
    detectable, words = [], []
    for found, fault, p, count in zip(table["difference"], table["fault"], adjusted, compared, strict=True):
        known = isinstance(found, PairedDifference)
        strictest = 1 - (1 - statistics.level) / max(1, count)
        detectable.append(found.detectable(statistics.power, strictest) if known else np.nan)
        if fault:
            words.append(f"{NOT_COMPUTED}{fault}")
        elif known:
            words.append(worded(results, found, p))
        else:
            words.append("")
    return table.assign(p_adjusted=adjusted, detectable=detectable, verdict=words)


def _difference_row(results: Results, method: str, baseline: str) -> Row:
    fault = results.fault(method, results.sets) or results.fault(baseline, results.sets)
    row: Row = {"method": method, "baseline": baseline, "pair": (method, baseline)}
    names = ("delta", "low", "high", "p", "mcnemar_p")
    if fault:
        return row | dict.fromkeys(names, np.nan) | {"difference": None, "fault": fault}
    found = difference(results, method, baseline, results.sets)
    ours, theirs = (np.hstack([results.scores(name, each) for each in results.sets]) for name in (method, baseline))
    values = (found.delta, found.low, found.high, found.p, mcnemar(ours, theirs).p)
    return row | dict(zip(names, values, strict=True)) | {"difference": found, "fault": None}
