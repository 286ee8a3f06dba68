"""Command that explains one cell of a table: how it is computed, and from which files, items and runs.

``python -m benchmarks.explain_cell results/mini/tables/main.csv method=iapo test_set=h_bar accuracy``
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.records import RecordsError
from benchmarks.results import (
    NO_TOOLS,
    Results,
    load_results,
    metrics_path,
    recorded_config,
    records_path,
    run_record,
)
from benchmarks.tables.ablations import ablation_table
from benchmarks.tables.calls import calls_table
from benchmarks.tables.contrasts import contrast_table
from benchmarks.tables.image_help import image_help_table
from benchmarks.tables.main import AVERAGE, REPORTED, difference_table, main_table
from benchmarks.tables.render import FLOAT_FORMAT
from benchmarks.tables.scorers import scorer_table, sets_with_rule
from benchmarks.tables.training import cost_records, cost_table, dynamics_table, tuning_table
from iapo.artifacts.files import sha256_file
from iapo.artifacts.run_record import RecordError

_ITEMS_SHOWN = 5
"""Items listed per run and test set, as examples."""


class ExplainError(ValueError):
    """Raised for an unknown table, column or row; the message lists those that exist."""


@dataclass(frozen=True)
class RowSources:
    """The methods, test sets and files from which one row of a table is computed."""

    methods: Sequence[str]
    """Methods whose evaluations enter; where there are two, the second is the baseline."""
    sets: Sequence[str]
    """Test sets that enter."""
    files: Sequence[Path]
    """Files other than the evaluations."""


def explain_cell(path: Path, wanted: Mapping[str, str], column: str) -> str:
    """Return a text that explains one cell of a table.

    The cell is computed again from the files that it lists, so that a stale table shows.

    Args:
        path: a CSV in ``results/<profile>/tables``.
        wanted: column → value, selecting exactly one row.
        column: the cell's column.

    Raises:
        ExplainError: for an unknown table, column or row.
    """
    name = path.stem
    if name not in _TABLES or not path.exists():
        raise ExplainError(
            f"found no table {path} that can be explained; write results/<profile>/tables/NAME.csv with NAME one of "
            f"{', '.join(_TABLES)}: the cells of results/table.csv are of main"
        )
    written = pd.read_csv(path, keep_default_na=False)
    row = _row(written, wanted, path)
    if column not in written:
        raise ExplainError(f"{path} has no column {column!r}; it has {', '.join(written.columns)}")
    folder = path.parent.parent
    results = _results(folder, name)
    make, sources = _TABLES[name]
    again = make(results)
    row_sources = sources(results, {str(key): str(value) for key, value in written.loc[row].items()})
    lines = [
        f"{path}: {column} of {', '.join(f'{key}={value}' for key, value in wanted.items())}",
        f"  written: {_text(written.at[row, column])}",
        f"  made again from the files below: {_text(again.at[row, column])}",
        f"  how: {_definition(make)}",
    ]
    for method in row_sources.methods:
        lines += _evaluations(results, method, row_sources.sets)
    lines += ["files:", *(_file(each) for each in row_sources.files)] if row_sources.files else []
    return "\n".join(lines)


def _results(folder: Path, name: str) -> Results:
    config = recorded_config(folder)
    return load_results(folder, config, config.ablation_runs if name == "ablations" else None)


def _row(table: pd.DataFrame, wanted: Mapping[str, str], path: Path) -> int:
    unknown = [key for key in wanted if key not in table]
    if unknown:
        raise ExplainError(f"{path} has no column {unknown[0]!r}; it has {', '.join(table.columns)}")
    found = table
    for key, value in wanted.items():
        found = found[found[key].astype(str) == value]
    if len(found) == 1:
        return int(found.index[0])
    choices = ", ".join(f"{key}: {'|'.join(dict.fromkeys(table[key].astype(str)))}" for key in table.columns[:2])
    raise ExplainError(f"found {len(found)} rows for {dict(wanted)}, expected one; name more columns ({choices})")


def _text(value: object) -> str:
    if isinstance(value, float | np.floating):
        return "" if np.isnan(value) else FLOAT_FORMAT % value
    return str(value)


def _definition(make: Callable[[Results], pd.DataFrame]) -> str:
    return " ".join((make.__doc__ or "").split())


def _evaluations(results: Results, method: str, sets: Sequence[str]) -> list[str]:
    lines = [f"runs of {method}:"]
    plain = method.removesuffix(NO_TOOLS)
    for seed in sorted(results.records.loc[results.records["method"] == plain, "seed"].unique()):
        path = records_path(results.folder, plain, int(seed))
        record = run_record(path)
        made = (
            f"commit {record.get('commit')}, {record.get('started')}, {record.get('wall_seconds')} s" if record else ""
        )
        lines.append(f"{_file(path)}; {made}")
        trained = metrics_path(results.folder, plain, int(seed)).with_name("model.run.json")
        lines += [_file(trained)] if trained.exists() else []
        for test_set in sets:
            rows = results.of(method, test_set)
            rows = rows[rows["seed"] == seed].sort_values("example_id")
            right = int(rows["score"].sum())
            some = ", ".join(f"{r.example_id}={r.score:g}" for r in rows.head(_ITEMS_SHOWN).itertuples())
            lines.append(f"    {test_set}: {right} of {len(rows)} items right: {some}, …")
    means = [results.scores(method, name).mean(1) for name in sets]
    if means and not results.fault(method, sets):
        lines.append(f"  accuracy by seed: {', '.join(FLOAT_FORMAT % value for value in np.mean(means, axis=0))}")
    return lines


def _file(path: Path) -> str:
    return f"  {path} (sha256 {sha256_file(path)[:16]})" if path.exists() else f"  {path} (missing)"


def _of_main(results: Results, row: Mapping[str, str]) -> RowSources:
    sets = results.sets if row["test_set"] == AVERAGE else [row["test_set"]]
    reference = results.config.statistics.reference_method
    methods = [row["method"]] if row["method"] == reference else [row["method"], reference]
    return RowSources(methods, sets, [REPORTED] if row["reported"] else [])


def _of_differences(results: Results, row: Mapping[str, str]) -> RowSources:
    return RowSources([row["method"], row["baseline"]], results.sets, [])


def _of_image_help(results: Results, row: Mapping[str, str]) -> RowSources:
    return RowSources([row["method"]], results.sets, [])


def _of_scorers(results: Results, row: Mapping[str, str]) -> RowSources:
    return RowSources([row["method"]], sets_with_rule(results) if row["test_set"] == AVERAGE else [row["test_set"]], [])


def _of_dynamics(results: Results, row: Mapping[str, str]) -> RowSources:
    return RowSources([], [], [metrics_path(results.folder, row["method"], seed) for seed in results.config.seeds])


def _of_cost(results: Results, row: Mapping[str, str]) -> RowSources:
    what = row["what"]
    seeds = results.config.seeds if what in results.config.methods else ()
    metrics = [metrics_path(results.folder, what, seed) for seed in seeds]
    return RowSources([], [], [*metrics, *cost_records(results, what)])


def _of_tuning(results: Results, row: Mapping[str, str]) -> RowSources:
    folder = results.folder / "tuning"
    trial = folder / "work" / row["method"] / f"weight_{float(row['weight']):g}"
    return RowSources(
        [], [], [folder / f"{row['method']}.json", folder / f"{row['method']}.run.json", trial / "metrics.jsonl"]
    )


def _of_reported(results: Results, row: Mapping[str, str]) -> RowSources:
    return RowSources([], [], [REPORTED])


def _of_ablations(results: Results, row: Mapping[str, str]) -> RowSources:
    base = results.config.ablations.method
    wanted = row["setting"], row["value"]
    own = next((name for name, (key, v) in results.config.ablated.items() if (key, str(v)) == wanted), None)
    return RowSources([own, base] if own else [base], results.sets, [])


def _reported(results: Results) -> pd.DataFrame:
    """List accuracies reported by others; the row's own columns give the source."""
    return pd.read_csv(REPORTED)


def _tuning(results: Results) -> pd.DataFrame:
    """Train and evaluate greedily on the dev split, one trial per weight; the most accurate weight is chosen."""
    return tuning_table(results.folder)


_TABLES: dict[str, tuple[Callable[[Results], pd.DataFrame], Callable[[Results, Mapping[str, str]], RowSources]]] = {
    "main": (main_table, _of_main),
    "contrasts": (contrast_table, _of_differences),
    "differences": (difference_table, _of_differences),
    "calls": (calls_table, _of_image_help),
    "image_help": (image_help_table, _of_image_help),
    "scorers": (scorer_table, _of_scorers),
    "dynamics": (dynamics_table, _of_dynamics),
    "cost": (cost_table, _of_cost),
    "tuning": (_tuning, _of_tuning),
    "reported": (_reported, _of_reported),
    "ablations": (ablation_table, _of_ablations),
}


def main(arguments: Sequence[str]) -> str:
    """Explain the cell that the command line names: a table, ``column=value`` pairs that select a row, and a column."""
    if len(arguments) < 3 or not all("=" in each for each in arguments[1:-1]):
        raise ExplainError(
            "expected a table, column=value pairs that choose a row, and a column: " + str(__doc__).split("``")[1]
        )
    wanted = dict(each.split("=", 1) for each in arguments[1:-1])
    return explain_cell(Path(arguments[0]), wanted, arguments[-1])


if __name__ == "__main__":
    try:
        print(main(sys.argv[1:]))
    except (ExplainError, RecordsError, RecordError) as error:
        sys.exit(f"error: {error}")
