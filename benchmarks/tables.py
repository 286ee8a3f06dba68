"""The main table: one row per method and test set, plus the unweighted average over the sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.stats import Scores, macro_average, macro_paired_difference, wilson
from iapo.config import Config, StatisticsConfig
from iapo.provenance import atomic_write
from iapo.types import TEST_SETS

AVERAGE = "average"
_DECIMALS = "%.4f"

Row = dict[str, object]


def main_table(records: pd.DataFrame, config: StatisticsConfig, profile: str) -> pd.DataFrame:
    """Tabulate records.

    Args:
        records: as :func:`benchmarks.records.read_records` returns them.
        config: level, bootstrap and the method that differences are taken against.
        profile: goes into the last column.

    Returns:
        Rates in [0, 1]. A cell's interval is Wilson's over the items, with the mean over seeds as the number
        of right answers: seeds share their items, so they are no further trials. Differences pair items and
        are empty for the reference itself, or where the reference was not run.
    """
    sets = [name for name in TEST_SETS if name in set(records["test_set"])]
    methods = list(dict.fromkeys(records["method"]))
    rows: list[Row] = []
    for method in methods:
        of_method = records[records["method"] == method]
        rows += [_cell(of_method, records, name, config) for name in sets]
        rows.append(_average(of_method, records, sets, config))
    table = pd.DataFrame(rows)
    table["profile"] = profile
    return table


def _cell(rows: pd.DataFrame, records: pd.DataFrame, test_set: str, config: StatisticsConfig) -> Row:
    here = rows[rows["test_set"] == test_set]
    scores = _scores(here)
    accuracy = float(scores.mean())
    n_seeds, n_items = scores.shape
    low, high = wilson(accuracy * n_items, n_items, config.level)
    return {
        "method": here["method"].iloc[0],
        "test_set": test_set,
        "n_items": n_items,
        "n_seeds": n_seeds,
        "accuracy": accuracy,
        "ci_low": low,
        "ci_high": high,
        **_difference(rows, records, [test_set], config),
        **_tool_rates([here]),
    }


def _average(rows: pd.DataFrame, records: pd.DataFrame, sets: Sequence[str], config: StatisticsConfig) -> Row:
    by_set = {name: rows[rows["test_set"] == name] for name in sets}
    scores = {name: _scores(here) for name, here in by_set.items()}
    average = macro_average(
        scores,
        clusters={name: _clusters(here) for name, here in by_set.items()},
        level=config.level,
        seed=config.seed,
        draws=config.bootstrap_draws,
    )
    return {
        "method": rows["method"].iloc[0],
        "test_set": AVERAGE,
        "n_items": sum(values.shape[1] for values in scores.values()),
        "n_seeds": rows["seed"].nunique(),
        "accuracy": average.mean,
        "ci_low": average.low,
        "ci_high": average.high,
        **_difference(rows, records, sets, config),
        **_tool_rates(list(by_set.values())),
    }


def _difference(rows: pd.DataFrame, records: pd.DataFrame, sets: Sequence[str], config: StatisticsConfig) -> Row:
    """The columns ``delta_*`` over one set or several."""
    reference = config.reference_method
    names = (f"delta_vs_{reference}", "delta_low", "delta_high")
    other = records[records["method"] == reference]
    if rows["method"].iloc[0] == reference or other.empty:
        return dict.fromkeys(names, np.nan)
    of_set = {name: rows[rows["test_set"] == name] for name in sets}
    result = macro_paired_difference(
        {name: _scores(here) for name, here in of_set.items()},
        {name: _scores(other[other["test_set"] == name]) for name in sets},
        clusters={name: _clusters(here) for name, here in of_set.items()},
        level=config.level,
        seed=config.seed,
        draws=config.bootstrap_draws,
    )
    return dict(zip(names, (result.delta, result.low, result.high), strict=True))


def _tool_rates(sets: Sequence[pd.DataFrame]) -> Row:
    """Calls attempted per question, and carried out per attempt; means over sets, like the accuracy."""
    called = np.mean([here["called"].mean() for here in sets])
    succeeded = np.mean([here["call_ok"].mean() for here in sets])
    return {
        "tool_call_rate": called,
        "tool_success_rate": succeeded / called if called else np.nan,
    }


def _scores(rows: pd.DataFrame) -> Scores:
    """[S, N], items by name."""
    return rows.pivot(index="seed", columns="example_id", values="score").to_numpy(np.float64)


def _clusters(rows: pd.DataFrame) -> list[str]:
    """The figure of each item, in the order of :func:`_scores`."""
    items = rows[["example_id", "figure_id"]].drop_duplicates("example_id")
    return list(items.sort_values("example_id")["figure_id"])


def write_table_csv(table: pd.DataFrame, path: Path) -> None:
    """Write with four decimals and plain line ends, so that equal tables are equal bytes."""
    with atomic_write(path) as partial:
        table.to_csv(partial, index=False, float_format=_DECIMALS, lineterminator="\n")


def table_markdown(
    table: pd.DataFrame, config: Config, *, folder: Path, teacher: Mapping[str, Any] | None = None
) -> str:
    """The table for people: methods by sets in percent, what was compared, and where the files are.

    Args:
        table: of :func:`main_table`.
        config: of the run.
        folder: where the run's files lie.
        teacher: whether its attribution is informative (``informative.json``); None where no method asks it.
    """
    methods = list(dict.fromkeys(table["method"]))
    shown = pd.DataFrame([_shown(table[table["method"] == method], config) for method in methods])
    level = f"{config.statistics.level:.0%}"
    items = int(table.loc[table["test_set"] == AVERAGE, "n_items"].max())
    lines = [
        f"# Results of profile `{config.profile}`",
        "",
        shown.to_markdown(index=False, disable_numparse=True),
        "",
        f"Accuracy in percent on {items} questions, greedy decoding; average over the sets with its {level} "
        f"interval over items and seeds. Difference: points against {config.statistics.reference_method}, "
        "paired by item.",
        *_notes(table, config),
        *([] if teacher is None else ["", f"Is the teacher informative? {_teacher_note(teacher)}"]),
        "",
        f"Every number: `{folder}/tables/main.csv`. Per item: `{folder}/eval/<method>/seed<n>/records.parquet`. "
        f"Training: `{folder}/train/<method>/seed<n>/metrics.csv`. A `.run.json` beside each says how it was made.",
    ]
    return "\n".join(lines) + "\n"


def _shown(rows: pd.DataFrame, config: Config) -> Row:
    by_set = rows.set_index("test_set")
    average = by_set.loc[AVERAGE].to_dict()
    delta = average[f"delta_vs_{config.statistics.reference_method}"]
    difference = (
        "–"
        if np.isnan(delta)
        else f"{100 * delta:+.1f} [{100 * average['delta_low']:+.1f}, {100 * average['delta_high']:+.1f}] "
        + _verdict(float(average["delta_low"]), float(average["delta_high"]))
    )
    return {
        "method": average["method"],
        "seeds": average["n_seeds"],
        **{name: f"{100 * by_set.loc[name, 'accuracy']:.1f}" for name in by_set.index if name != AVERAGE},
        "average": f"{100 * average['accuracy']:.1f} [{100 * average['ci_low']:.1f}, {100 * average['ci_high']:.1f}]",
        "difference": difference,
        "tool calls": f"{100 * average['tool_call_rate']:.0f} %",
        "of which succeed": "–"
        if np.isnan(average["tool_success_rate"])
        else f"{100 * average['tool_success_rate']:.0f} %",
    }


def _verdict(low: float, high: float) -> str:
    if low > 0:
        return "better"
    return "worse" if high < 0 else "no difference found"


def _teacher_note(teacher: Mapping[str, Any]) -> str:
    others = {seed: each["verdict"] for seed, each in teacher["teachers"].items()}
    others.pop(str(teacher["teacher_seed"]), None)
    note = f"**{teacher['sentence'].partition(':')[0]}**:{teacher['sentence'].partition(':')[2]}."
    if others:
        note += " Teachers of other seeds: " + ", ".join(f"{seed} {verdict}" for seed, verdict in others.items())
        agreement = teacher["agreement"]
        note += "; they agree on nothing" if agreement is None else f"; agreement within groups r = {agreement:.2f}"
        note += "."
    return note


def _notes(table: pd.DataFrame, config: Config) -> list[str]:
    notes = []
    for method in config.methods:
        found = table.loc[table["method"] == method, "n_seeds"].max()
        if found != len(config.seeds):
            notes.append(f"**{method} has {found} of {len(config.seeds)} configured seeds.**")
    if config.statistics.reference_method not in set(table["method"]):
        notes.append(f"**{config.statistics.reference_method} was not run: no differences.**")
    return ["", *notes] if notes else []
