"""What a profile's folder holds, found by its layout: records, metrics, run records, and what is missing."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.records import RecordsError, read_run
from benchmarks.stats import Scores
from iapo.config import Config, load_config
from iapo.types import TEST_SETS

NO_TOOLS = "_no_tools"
"""Suffix of the row of an off-the-shelf policy with its tools switched off."""
_NAMED = 3
"""How many missing items a fault names."""


@dataclass(frozen=True)
class Results:
    """Everything that tables and figures are made from."""

    folder: Path
    config: Config
    records: pd.DataFrame
    """One row a (method, seed, test_set, example_id), columns as in :mod:`benchmarks.records`."""
    metrics: pd.DataFrame
    """One row a (method, seed, step) of training."""
    faults: dict[tuple[str, str], str]
    """(method, test set) → why its cell cannot be computed."""
    _kept: dict[tuple[str, ...], Any] = field(default_factory=dict, compare=False, repr=False)
    """What was cut out of the records before: every comparison asks for the same few pieces."""

    @property
    def rows(self) -> list[str]:
        """Methods and policies in the order of the tables."""
        off_the_shelf = []
        for policy in self.config.reference_policies:
            # The trained teacher is no off-the-shelf model, and an API is asked as it is.
            with_off = self.config.evaluation.image_help and policy.endswith("untrained")
            off_the_shelf += [policy, policy + NO_TOOLS] if with_off else [policy]
        return [*off_the_shelf, *self.config.methods]

    @property
    def sets(self) -> list[str]:
        """The run's test sets in the paper's order."""
        return [name for name in TEST_SETS if name in self.config.test_sets]

    def of(self, row: str, test_set: str) -> pd.DataFrame:
        """The records behind a row of the table; ``score`` is the one without tools where the row says so."""
        return self._keep(("of", row, test_set), lambda: self._cut(row, test_set))

    def scores(self, row: str, test_set: str, column: str = "score") -> Scores:
        """[S, N] scores of a row that has no fault here, items by name."""

        def pivoted() -> Scores:
            rows = self.of(row, test_set)
            return rows.pivot(index="seed", columns="example_id", values=column).to_numpy(np.float64)

        return self._keep((column, row, test_set), pivoted)

    def clusters(self, row: str, test_set: str) -> list[str]:
        """[N] the figure of each item, in the order of :meth:`scores`."""

        def figures() -> list[str]:
            items = self.of(row, test_set)[["example_id", "figure_id"]].drop_duplicates("example_id")
            return list(items.sort_values("example_id")["figure_id"])

        return self._keep(("figures", row, test_set), figures)

    def _keep(self, key: tuple[str, ...], make: Callable[[], Any]) -> Any:
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def _cut(self, row: str, test_set: str) -> pd.DataFrame:
        method = row.removesuffix(NO_TOOLS)
        here = self.records[(self.records["method"] == method) & (self.records["test_set"] == test_set)]
        if row == method:
            return here
        return here.assign(score=here["score_off"], called=False, call_ok=False)

    def fault(self, row: str, sets: Sequence[str]) -> str | None:
        """The first reason why a row cannot be computed on these sets; None where it can."""
        found = (self.faults.get((row.removesuffix(NO_TOOLS), name)) for name in sets)
        return next((fault for fault in found if fault), None)


def records_path(folder: Path, method: str, seed: int) -> Path:
    """Where the evaluation of one run lies."""
    return folder / f"eval/{method}/seed{seed}/records.parquet"


def metrics_path(folder: Path, method: str, seed: int) -> Path:
    """Where the training metrics of one run lie."""
    return folder / f"train/{method}/seed{seed}/metrics.csv"


def load_results(folder: Path, config: Config, runs: Sequence[tuple[str, int]] | None = None) -> Results:
    """Read a profile's folder. Nothing that is missing stops it: it is named in ``faults``.

    Args:
        folder: ``results/<profile>``.
        config: of the run.
        runs: which (method, seed) to expect; all of the table's when absent.
    """
    expected = config.evaluated_runs if runs is None else runs
    frames: list[pd.DataFrame] = []
    faults: dict[tuple[str, str], str] = {}
    for method, seed in expected:
        try:
            frames.append(read_run(records_path(folder, method, seed)))
        except RecordsError as error:
            faults |= {(method, name): f"{method} seed {seed}: {error}" for name in config.test_sets}
    if not frames:
        raise RecordsError(f"found no records below {folder / 'eval'}; evaluate first: snakemake results/table.csv")
    records = pd.concat(frames, ignore_index=True)
    found = _faults(records, [run for run in expected if (run[0], config.test_sets[0]) not in faults], config.test_sets)
    return Results(folder, config, records, _metrics(folder, expected), found | faults)


def _faults(
    records: pd.DataFrame, runs: Sequence[tuple[str, int]], test_sets: Sequence[str]
) -> dict[tuple[str, str], str]:
    """Runs that did not answer every question once, by (method, test set)."""
    faults: dict[tuple[str, str], str] = {}
    by_set = dict(list(records.groupby("test_set")))
    for test_set in test_sets:
        rows = by_set.get(test_set, records.iloc[:0])
        everything = set(rows["example_id"])
        for method, seed in runs:
            run = rows[(rows["method"] == method) & (rows["seed"] == seed)]
            problem = _problem(run, everything)
            if problem is not None:
                faults.setdefault((method, test_set), f"{method} seed {seed}: {problem} of {test_set}")
    return faults


def _problem(run: pd.DataFrame, everything: set[str]) -> str | None:
    if not everything:
        return "found no items"
    missing = sorted(everything - set(run["example_id"]))
    if missing:
        return f"lacks {len(missing)} of {len(everything)} items ({', '.join(missing[:_NAMED])} …)"
    if len(run) > len(everything):
        return f"{len(run) - len(everything)} records twice"
    unscored = int(run["score"].isna().sum())
    return f"{unscored} items without a score" if unscored else None


def _metrics(folder: Path, runs: Sequence[tuple[str, int]]) -> pd.DataFrame:
    frames = [
        pd.read_csv(path).assign(method=method, seed=seed)
        for method, seed in runs
        if (path := metrics_path(folder, method, seed)).exists()
    ]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=["method", "seed", "step"])


def run_record(path: Path) -> dict[str, Any]:
    """The run record beside an artefact, e.g. of ``records.parquet``; empty where there is none."""
    record = path.with_suffix(".run.json")
    return dict(json.loads(record.read_text())) if record.exists() else {}


def recorded_config(folder: Path) -> Config:
    """The configuration that a profile's folder was last evaluated with.

    Raises:
        RecordsError: where no run record is found.
    """
    found = [*sorted(folder.glob("tables/*.run.json")), *sorted(folder.glob("eval/*/seed*/records.run.json"))]
    if not found:
        raise RecordsError(f"found no run record below {folder}; expected results/<profile> after an evaluation")
    newest = max(found, key=lambda path: path.stat().st_mtime)
    return load_config(json.loads(newest.read_text())["config"])
