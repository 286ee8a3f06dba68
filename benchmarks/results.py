"""Reading of a profile's results folder: evaluation records, training metrics, run records, and what is missing.

Anything missing or inconsistent becomes a *fault* of the cells that need it, so that the other cells of a table can
still be computed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from benchmarks.records import RecordsError, read_run
from benchmarks.stats.components import Scores
from iapo.artifacts.run_record import read_record
from iapo.config.schema import Config, load_config
from iapo.types import TEST_SETS

NO_TOOLS = "_no_tools"
"""Suffix of the table row for an off-the-shelf policy evaluated without tools."""
_MAX_NAMED = 3
"""Most missing items that a fault names."""

T = TypeVar("T")


@dataclass(frozen=True)
class Results:
    """The records and metrics that all tables and figures are computed from.

    Shapes: S seeds, N items.
    """

    folder: Path
    config: Config
    records: pd.DataFrame
    """One row per (method, seed, test_set, example_id), columns as in :mod:`benchmarks.records`."""
    metrics: pd.DataFrame
    """One row per (method, seed, step) of training."""
    faults: dict[tuple[str, str], str]
    """(method, test set) → reason why the cell cannot be computed."""
    _selections: dict[tuple[str, ...], Any] = field(default_factory=dict, compare=False, repr=False)
    """What :meth:`cached` keeps."""

    @property
    def rows(self) -> list[str]:
        """Names of the tables' rows in order: off-the-shelf policies, then the methods."""
        off_the_shelf = []
        for policy in self.config.reference_policies:
            # Neither the trained teacher nor a model behind an API has a row without tools.
            with_off = self.config.evaluation.image_help and policy.endswith("untrained")
            off_the_shelf += [policy, policy + NO_TOOLS] if with_off else [policy]
        return [*off_the_shelf, *self.config.methods]

    @property
    def sets(self) -> list[str]:
        """The run's test sets, in the paper's order."""
        return [name for name in TEST_SETS if name in self.config.test_sets]

    def of(self, row: str, test_set: str) -> pd.DataFrame:
        """Return the records of a table row on one test set; ``score`` is the one without tools for a row named so."""
        return self.cached(("of", row, test_set), lambda: self._select(row, test_set))

    def scores(self, row: str, test_set: str, column: str = "score") -> Scores:
        """Return the scores [S, N] of a row without faults on this test set: seeds in their order, items by id."""

        def pivoted() -> Scores:
            rows = self.of(row, test_set)
            pivot = rows.pivot(index="seed", columns="example_id", values=column)
            if row.removesuffix(NO_TOOLS) not in self.config.reference_policies:
                pivot = pivot.loc[[seed for seed in self.config.seeds if seed in pivot.index]]
            return pivot.to_numpy(np.float64)

        return self.cached((column, row, test_set), pivoted)

    def clusters(self, row: str, test_set: str) -> list[str]:
        """Return the cluster of each item [N], in the order of :meth:`scores`: its labels or its figure."""

        def named() -> list[str]:
            items = self.of(row, test_set)[["example_id", "cluster"]].drop_duplicates("example_id")
            return list(items.sort_values("example_id")["cluster"])

        return self.cached(("clusters", row, test_set), named)

    def replicates(self, row: str, sets: Sequence[str]) -> dict[str, Any]:
        """Return what :func:`benchmarks.stats.paired.linear_contrast` is told of the items and the seeds of rows.

        Args:
            row: a row without faults on these test sets; clusters are the same for every row.
            sets: test sets of the comparison.
        """
        statistics = self.config.statistics
        return {
            "clusters": {name: self.clusters(row, name) for name in sets},
            "starts": self.starts,
            "level": statistics.level,
            "seed": statistics.seed,
            "draws": statistics.bootstrap_draws,
        }

    @property
    def starts(self) -> list[int]:
        """Number of the student's cold start of each seed, in the order of ``config.seeds``."""
        return list(self.config.start_of.values())

    def is_paired(self, *rows: str) -> bool:
        """Whether rows are compared seed by seed: where seeds have several cold starts, and each row a run for each.

        A row of the teachers, of which there are fewer, is another side with runs of its own.
        """
        starts, runs = set(self.starts), Counter(name for name, _ in self.config.trained_runs)
        if len(starts) == 1:
            return False
        policies = {row.removesuffix(NO_TOOLS) for row in rows}
        trained = policies & runs.keys()
        others = (self.config.reference_starts.get(name, starts) for name in policies - trained)
        return all(runs[name] == len(self.starts) for name in trained) and all(
            len(found) in (1, len(starts)) for found in others
        )

    def cached(self, key: tuple[str, ...], make: Callable[[], T]) -> T:
        """Return what was made for a key before, or make it: every table needs the same few selections."""
        if key not in self._selections:
            self._selections[key] = make()
        return self._selections[key]

    def _select(self, row: str, test_set: str) -> pd.DataFrame:
        method = row.removesuffix(NO_TOOLS)
        here = self.records[(self.records["method"] == method) & (self.records["test_set"] == test_set)]
        if row == method:
            return here
        return here.assign(score=here["score_off"], called=False, call_ok=False)

    def fault(self, row: str, sets: Sequence[str]) -> str | None:
        """Return the first reason why a row cannot be computed on these test sets; None if it can."""
        found = (self.faults.get((row.removesuffix(NO_TOOLS), name)) for name in sets)
        return next((fault for fault in found if fault), None)


def records_path(folder: Path, method: str, seed: int) -> Path:
    """Return the path of one run's evaluation records."""
    return folder / f"eval/{method}/seed{seed}/records.parquet"


def metrics_path(folder: Path, method: str, seed: int) -> Path:
    """Return the path of one run's training metrics."""
    return folder / f"train/{method}/seed{seed}/metrics.csv"


def load_results(folder: Path, config: Config, runs: Sequence[tuple[str, int]] | None = None) -> Results:
    """Read a profile's results folder; missing or incomplete evaluations become ``faults``.

    Args:
        folder: ``results/<profile>``.
        config: configuration of the profile.
        runs: the expected runs (method, seed); those of the main table if None.

    Raises:
        RecordsError: if no expected run has records.
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
    """Return faults for runs that did not answer every question exactly once."""
    faults: dict[tuple[str, str], str] = {}
    by_set = dict(list(records.groupby("test_set")))
    for test_set in test_sets:
        rows = by_set.get(test_set, records.iloc[:0])
        expected_ids = set(rows["example_id"])
        for method, seed in runs:
            run = rows[(rows["method"] == method) & (rows["seed"] == seed)]
            problem = _problem(run, expected_ids)
            if problem is not None:
                faults.setdefault((method, test_set), f"{method} seed {seed}: {problem} of {test_set}")
    return faults


def _problem(run: pd.DataFrame, expected_ids: set[str]) -> str | None:
    if not expected_ids:
        return "found no items"
    missing = sorted(expected_ids - set(run["example_id"]))
    if missing:
        return f"lacks {len(missing)} of {len(expected_ids)} items ({', '.join(missing[:_MAX_NAMED])} …)"
    if len(run) > len(expected_ids):
        return f"{len(run) - len(expected_ids)} records twice"
    unscored = int(run["score"].isna().sum())
    return f"{unscored} items without a score" if unscored else None


def _metrics(folder: Path, runs: Sequence[tuple[str, int]]) -> pd.DataFrame:
    frames = [
        pd.read_csv(path).assign(method=method, seed=seed)
        for method, seed in runs
        if (path := metrics_path(folder, method, seed)).exists()
    ]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=["method", "seed", "step"])


def run_record(path: Path) -> dict[str, object]:
    """Return the run record beside an artefact such as ``records.parquet``; empty if there is none."""
    record = path.with_suffix(".run.json")
    return dict(read_record(record)) if record.exists() else {}


def recorded_config(folder: Path) -> Config:
    """Return the configuration of the latest evaluation in a profile's results folder.

    Raises:
        RecordsError: if the folder has no run record.
    """
    found = [*sorted(folder.glob("tables/*.run.json")), *sorted(folder.glob("eval/*/seed*/records.run.json"))]
    if not found:
        raise RecordsError(f"found no run record below {folder}; expected results/<profile> after an evaluation")
    newest = max(found, key=lambda path: path.stat().st_mtime)
    return load_config(read_record(newest)["config"])
