"""The results in README and docs/results.md, written from the tables that are checked in.

``python -m benchmarks.readme results/mini`` takes a finished run's tables into ``results/reference/mini`` first;
without a folder it writes both again from what is there.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from benchmarks.power_curve import power_curve
from benchmarks.tables.main import AVERAGE
from benchmarks.tables.render import each_run, interval, number, percent, points
from iapo.artifacts.code_digest import ROOT
from iapo.artifacts.files import atomic_write, between_marks

README, RESULTS = ROOT / "README.md", ROOT / "docs/results.md"
REFERENCE = ROOT / "results/reference/mini"
BEGIN, END = "<!-- results: written by `make readme` -->", "<!-- end of results -->"
CURVE, END_OF_CURVE = "<!-- power: written by `make readme` -->", "<!-- end of power -->"

_RUNS = (4, 6, 8, 12, 24, 48)
"""Numbers of cold starts that docs/results.md says the power of."""

_TAKEN = tuple(f"{name}.{kind}" for name in ("main", "contrasts", "calls", "cost") for kind in ("csv", "md"))
"""Tables that are checked in, with every run's value."""


def take(tables: Path, reference: Path = REFERENCE) -> None:
    """Copy a run's tables to be checked in.

    Args:
        tables: ``results/<profile>/tables`` of a finished run.
        reference: folder to copy them to.

    Raises:
        FileNotFoundError: if one is missing; says which, and how to make it.
    """
    missing = [name for name in _TAKEN if not (tables / name).exists()]
    if missing:
        raise FileNotFoundError(f"{tables}: found no {', '.join(missing)}; `make table` writes them")
    reference.mkdir(parents=True, exist_ok=True)
    for name in _TAKEN:
        with atomic_write(reference / name) as tmp:
            shutil.copyfile(tables / name, tmp)


def with_results(text: str, main: pd.DataFrame, contrasts: pd.DataFrame) -> str:
    """Return README's text with today's block between its marks.

    Args:
        text: of README.
        main: of :func:`benchmarks.tables.main.main_table`.
        contrasts: of :func:`benchmarks.tables.contrasts.contrast_table`.
    """
    return between_marks(text, BEGIN, END, f"{_table(main)}\n\n{_found(contrasts)}")


def with_power(text: str, contrasts: pd.DataFrame, cost: pd.DataFrame) -> str:
    """Return the text of docs/results.md with today's table of points against minutes between its marks.

    Args:
        text: of docs/results.md.
        contrasts: of :func:`benchmarks.tables.contrasts.contrast_table`.
        cost: of :func:`benchmarks.tables.training.cost_table`.
    """
    curve = power_curve(contrasts, cost, _RUNS)
    shown = pd.DataFrame({"cold starts": curve["runs"].astype(str)})
    shown["minutes on two cores"] = [number(value, 0) for value in curve["minutes"]]
    for name in curve.columns.drop(["runs", "minutes"]):
        shown[name] = curve[name].map(percent)
    return between_marks(text, CURVE, END_OF_CURVE, str(shown.to_markdown(index=False, disable_numparse=True)))


def _table(main: pd.DataFrame) -> str:
    """Policies that students are, one a row: the teacher is another model."""
    averages = main[(main["test_set"] == AVERAGE) & ~main["method"].str.startswith("teacher")]
    sets = [name for name in main["test_set"].unique() if name != AVERAGE]
    by_cell = main.set_index(["method", "test_set"])["accuracy"]
    rows = [
        {
            "method": row["method"],
            **{name: percent(by_cell[row["method"], name], 0) for name in sets},
            "average, 95 %": interval(row["accuracy"], row["ci_low"], row["ci_high"]),
            "each run": each_run(row["by_seed"], lambda run: percent(run, 0)),
        }
        for row in averages.to_dict("records")
    ]
    return str(pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True))


def _found(contrasts: pd.DataFrame) -> str:
    """The comparisons that were declared beforehand, in their order."""
    lines = []
    for row in contrasts.to_dict("records"):
        runs = each_run(row["by_seed"], points)
        found = interval(row["delta"], row["low"], row["high"], signed=True)
        lines.append(
            f"- `{row['method']}` against `{row['baseline']}`: **{row['verdict']}**, {found} points (each run: {runs}; "
            f"could have found {percent(row['detectable'])})."
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write both pages, taking a run's tables first if one is named; status 1 if they are missing."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.readme", description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="results/<profile> of a finished run")
    options = parser.parse_args(arguments)
    try:
        if options.folder:
            take(options.folder / "tables")
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 1
    main_table, contrasts, cost = (pd.read_csv(REFERENCE / f"{name}.csv") for name in ("main", "contrasts", "cost"))
    with atomic_write(README) as tmp:
        tmp.write_text(with_results(README.read_text(), main_table, contrasts))
    with atomic_write(RESULTS) as tmp:
        tmp.write_text(with_power(RESULTS.read_text(), contrasts, cost))
    return 0


if __name__ == "__main__":
    sys.exit(main())
