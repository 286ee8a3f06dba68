"""The main table: one row per method and test set, plus the unweighted average over the sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.results import Results
from benchmarks.stats import (
    PairedDifference,
    holm,
    macro_average,
    macro_paired_difference,
    mcnemar,
    verdict,
    wilson,
)
from iapo.monitors import flags

AVERAGE = "average"
NOT_COMPUTED = "not computed: "
REPORTED = Path(__file__).parent.parent / "reported.csv"

Row = dict[str, object]


def main_table(results: Results) -> pd.DataFrame:
    """Tabulate the records.

    Returns:
        Rates in [0, 1]. A cell's interval is Wilson's over the items, with the mean over seeds as the number
        of right answers: seeds share their items, so they are no further trials. Differences pair items and
        are empty for the reference itself, or where the reference was not run. ``verdict`` is by the p-value
        corrected over the methods of the same column (Holm). A cell that lacks items or seeds is empty, and
        its verdict says why. ``reported`` is what was published about 3B and 7B models (``reported.csv``).
    """
    rows = [_row(results, name, sets) for name in results.rows for sets in _columns(results)]
    table = pd.DataFrame(rows)
    table["profile"] = results.config.profile
    table = _with_verdicts(table, results)
    table = table.merge(published(), how="left", on=["method", "test_set"])
    warnings = method_flags(results)
    table["flags"] = [warnings.get(method, "") for method in table["method"]]
    return table


def difference_table(results: Results) -> pd.DataFrame:
    """Every method against every other on the average over the sets; Holm over the methods of one baseline."""
    rows: list[Row] = []
    for baseline in results.config.methods:
        against = [_difference_row(results, method, baseline) for method in results.rows if method != baseline]
        adjusted = holm([float(str(row["p"])) for row in against])
        compared = sum(not np.isnan(p) for p in adjusted)
        rows += [
            row | {"p_holm": p, "compared": compared, "detectable": _detectable_of(row, compared, results)}
            for row, p in zip(against, adjusted, strict=True)
        ]
    table = pd.DataFrame(rows)
    table["verdict"] = [_verdict(row, results) for row in rows]
    return table.drop(columns=["difference", "fault", "compared"])


def published() -> pd.DataFrame:
    """Reported accuracies by (method, test_set), as fractions, with their sources."""
    table = pd.read_csv(REPORTED)
    rows = table[table["method"].notna() & table["test_set"].notna()]
    return pd.DataFrame(
        {
            "method": rows["method"],
            "test_set": rows["test_set"],
            "reported": rows["percent"] / 100,
            "reported_source": rows["source"] + ", " + rows["place"],
        }
    )


def method_flags(results: Results) -> dict[str, str]:
    """Method → what its monitors say at the end of its runs."""
    found: dict[str, dict[str, list[str]]] = {}
    for (method, seed), rows in results.metrics.groupby(["method", "seed"], sort=False):
        ordered = rows.sort_values("step").dropna(axis=1, how="all").to_dict("records")
        for flag in flags([{str(k): v for k, v in row.items()} for row in ordered], results.config.monitors):
            found.setdefault(str(method), {}).setdefault(flag.name, []).append(str(seed))
    return {
        method: "; ".join(f"{name} (seed {', '.join(seeds)})" for name, seeds in kinds.items())
        for method, kinds in found.items()
    }


def difference(results: Results, row: str, baseline: str, sets: Sequence[str]) -> PairedDifference:
    """Of two rows that have no fault on these sets, over items and seeds."""
    statistics = results.config.statistics
    return macro_paired_difference(
        {name: results.scores(row, name) for name in sets},
        {name: results.scores(baseline, name) for name in sets},
        clusters={name: results.clusters(row, name) for name in sets},
        level=statistics.level,
        seed=statistics.seed,
        draws=statistics.bootstrap_draws,
    )


def _columns(results: Results) -> list[list[str]]:
    """The sets behind each column of the table: one each, then all."""
    return [*([name] for name in results.sets), results.sets]


def _row(results: Results, name: str, sets: Sequence[str]) -> Row:
    reference = results.config.statistics.reference_method
    fault = results.fault(name, sets)
    here = {each: results.of(name, each) for each in sets}
    row: Row = {
        "method": name,
        "test_set": sets[0] if len(sets) == 1 else AVERAGE,
        "n_items": sum(rows["example_id"].nunique() for rows in here.values()),
        "n_seeds": max(rows["seed"].nunique() for rows in here.values()),
        **(dict.fromkeys(("accuracy", "ci_low", "ci_high"), np.nan) if fault else _accuracy(results, name, sets)),
        **dict.fromkeys((f"delta_vs_{reference}", "delta_low", "delta_high"), np.nan),
        **(dict.fromkeys(("tool_call_rate", "tool_success_rate"), np.nan) if fault else _tool_rates(here)),
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
    statistics = results.config.statistics
    by_set = {name: results.scores(row, name) for name in sets}
    if len(by_set) > 1:
        average = macro_average(
            by_set,
            clusters={name: results.clusters(row, name) for name in sets},
            level=statistics.level,
            seed=statistics.seed,
            draws=statistics.bootstrap_draws,
        )
        return {"accuracy": average.mean, "ci_low": average.low, "ci_high": average.high}
    (values,) = by_set.values()
    accuracy, n_items = float(values.mean()), values.shape[1]
    low, high = wilson(accuracy * n_items, n_items, statistics.level)
    return {"accuracy": accuracy, "ci_low": low, "ci_high": high}


def _tool_rates(here: Mapping[str, pd.DataFrame]) -> Row:
    """Calls attempted per question, and carried out per attempt; means over sets, like the accuracy."""
    called = np.mean([rows["called"].mean() for rows in here.values()])
    succeeded = np.mean([rows["call_ok"].mean() for rows in here.values()])
    return {"tool_call_rate": called, "tool_success_rate": succeeded / called if called else np.nan}


def _with_verdicts(table: pd.DataFrame, results: Results) -> pd.DataFrame:
    """Holm over the methods of a column, then words."""
    table["p_holm"] = table.groupby("test_set")["p"].transform(lambda p: holm(p.tolist()))
    table["compared"] = table.groupby("test_set")["p"].transform("count")
    table["detectable"] = [
        _detectable(found, compared, results)
        for found, compared in zip(table["difference"], table["compared"], strict=True)
    ]
    table["verdict"] = [_verdict({str(k): v for k, v in row.items()}, results) for row in table.to_dict("records")]
    return table.drop(columns=["difference", "p", "fault", "compared"])


def _detectable_of(row: Row, compared: int, results: Results) -> float:
    found = row["difference"]
    return _detectable(found if isinstance(found, PairedDifference) else None, compared, results)


def _detectable(found: PairedDifference | None, compared: int, results: Results) -> float:
    """What passes Holm's first and strictest step."""
    statistics = results.config.statistics
    return np.nan if found is None else found.detectable(statistics.power, 1 - (1 - statistics.level) / compared)


def _verdict(row: Row, results: Results) -> str:
    if row["fault"]:
        return f"{NOT_COMPUTED}{row['fault']}"
    found = row["difference"]
    if not isinstance(found, PairedDifference):
        return ""
    statistics = results.config.statistics
    return verdict(
        found,
        float(str(row["p_holm"])),
        level=statistics.level,
        power=statistics.power,
        comparisons=int(str(row["compared"])),
    )


def _difference_row(results: Results, method: str, baseline: str) -> Row:
    fault = results.fault(method, results.sets) or results.fault(baseline, results.sets)
    row: Row = {"method": method, "baseline": baseline}
    names = ("delta", "low", "high", "p", "mcnemar_p", "detectable")
    if fault:
        return row | dict.fromkeys(names, np.nan) | {"difference": None, "fault": fault}
    found = difference(results, method, baseline, results.sets)
    ours, theirs = (np.hstack([results.scores(name, each) for each in results.sets]) for name in (method, baseline))
    values = (found.delta, found.low, found.high, found.p, mcnemar(ours, theirs).p, np.nan)
    return row | dict(zip(names, values, strict=True)) | {"difference": found, "fault": None}
