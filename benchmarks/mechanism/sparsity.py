"""The sparse half of the study: methods × settings of the advantage × starts, and the contrasts between them.

A *cell* is one method under one setting from one start (:class:`iapo.config.variants.Cell`). A *scaling* is a setting
that says what the advantage is divided by and nothing else; any other setting is a *form* of the reward.

Shapes: S seeds, N test questions of a set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.stats.components import Scores
from benchmarks.stats.paired import PairedDifference, linear_contrast
from benchmarks.stats.ratio import Ratio, ratio_of_contrasts
from iapo.config.schema import Config
from iapo.config.variants import Cell, cells

EARLY_STEPS = 20
"""Steps over which the reward's composition is averaged: the start's sparsity is still felt there."""

_SCALING = {"train": {"scale_rewards"}}
"""Section → keys that a scaling may set."""


@dataclass(frozen=True)
class SparseStudy:
    """Records of all cells, and what is compared with what."""

    config: Config
    records: pd.DataFrame
    """Of :func:`benchmarks.mechanism.answers.answer`, with ``condition`` and ``seed``: all cells and starts."""
    metrics: pd.DataFrame
    """Training metrics per step, with ``condition`` and ``seed``."""
    rates: pd.DataFrame
    """Fields of :class:`iapo.cold_start.call_rates.CallRates` for each ``stage`` and ``start``."""
    _scores: dict[tuple[str, tuple[int, ...]], dict[str, Scores]] = field(default_factory=dict, repr=False)

    @cached_property
    def cells(self) -> list[Cell]:
        """The cells that the run has records of."""
        return [cell for cell in cells(self.config.grids) if cell.name in self._by_condition]

    @cached_property
    def _by_condition(self) -> dict[str, pd.DataFrame]:
        return {str(name): rows for name, rows in self.records.groupby("condition")}

    @cached_property
    def _items(self) -> pd.DataFrame:
        return self.records.drop_duplicates("example_id").sort_values("example_id")

    @cached_property
    def starts(self) -> list[str]:
        """The starts, from the one whose sampled calls are most seldom right."""
        found = dict.fromkeys(cell.start for cell in self.cells)
        return sorted(found, key=self.right_rate)

    def right_rate(self, start: str) -> float:
        """Return the measured share of a start's sampled turns whose call is right, mean over its cold starts."""
        return float(self.rates.loc[self.rates["stage"] == start, "right_rate"].mean())

    @cached_property
    def settings(self) -> dict[str, dict[str, Any]]:
        """Setting → its overrides, in the order of the cells."""
        known = {name: each for grid in self.config.grids.values() for name, each in grid.settings.items()}
        return {cell.setting: known[cell.setting] for cell in self.cells}

    @cached_property
    def scalings(self) -> list[str]:
        """The settings that are scalings; the others are forms."""
        return [name for name, overrides in self.settings.items() if _is_scaling(overrides)]

    def scaling(self, setting: str) -> str:
        """Return what a setting divides the advantage by: ``group``, ``batch`` or ``none``."""
        found: str = self.settings[setting].get("train", {}).get("scale_rewards", self.config.train.scale_rewards)
        return found

    @property
    def subject(self) -> str:
        """The method that is studied: that of the first declared comparison."""
        return self.config.statistics.primary[0][0]

    @property
    def controls(self) -> dict[str, str]:
        """Method → its matched control, of the declared comparisons."""
        reference = self.config.statistics.reference_method
        return {method: control for method, control in self.config.statistics.primary if control != reference}

    def cell(self, method: str, setting: str, start: str) -> Cell | None:
        """Return a cell; None where the run has none."""
        wanted = Cell(method, setting, start)
        return wanted if wanted in self.cells else None

    def outcome_alone(self, cell: Cell) -> Cell | None:
        """Return the outcome alone from the same start with the advantage scaled alike; None where the run has none."""
        alike = [name for name in self.scalings if self.scaling(name) == self.scaling(cell.setting)]
        found = [self.cell(self.config.statistics.reference_method, name, cell.start) for name in alike]
        return next(filter(None, found), None)

    def seeds(self, name: str) -> list[int]:
        """Return the seeds, or numbers of cold starts, of a condition, in order."""
        return sorted(self._by_condition[name]["seed"].unique())

    def scores(self, name: str, seeds: Sequence[int]) -> dict[str, Scores]:
        """Return a condition's scores [S, N] by test set, for some of its seeds."""
        key = (name, tuple(seeds))
        if key not in self._scores:
            rows = self._by_condition[name]
            rows = rows[rows["seed"].isin(seeds)]
            self._scores[key] = {
                str(each): part.pivot(index="seed", columns="example_id", values="score").to_numpy(np.float64)
                for each, part in rows.groupby("test_set")
            }
        return self._scores[key]

    def accuracy_by_seed(self, name: str) -> list[float]:
        """Return each run's test accuracy, the unweighted mean over the sets."""
        by_set = self.scores(name, self.seeds(name))
        return [float(value) for value in np.mean([scores.mean(1) for scores in by_set.values()], axis=0)]

    def early(self, name: str, column: str) -> float:
        """Return a metric's mean over the first :data:`EARLY_STEPS` steps and all seeds; nan if not logged."""
        rows = self.metrics[(self.metrics["condition"] == name) & self.metrics["step"].between(1, EARLY_STEPS)]
        return float(rows[column].mean()) if column in rows else float("nan")

    def term(self, name: str) -> str | None:
        """Return the name of a condition's reward term beside the outcome; None if there is none."""
        rows = self.metrics[self.metrics["condition"] == name]
        logged = [column for column in rows.columns if column.endswith("_share") and rows[column].notna().any()]
        terms = [column.removeprefix("advantage/").removesuffix("_share") for column in logged]
        return next((term for term in terms if term != "outcome_reward"), None)

    def contrast(self, weights: Mapping[str, float]) -> PairedDifference:
        """Return a weighted sum of conditions' test accuracies over labels and seeds."""
        terms = [(weight, scores) for (_, scores), weight in zip(self._sides(weights), weights.values(), strict=True)]
        return linear_contrast(terms, **self._replicates(weights))

    def share_of(self, gain: Mapping[str, float], oracle_gain: Mapping[str, float]) -> Ratio:
        """Return one contrast as a share of another, which must differ from 0, with Fieller's interval."""
        scores = dict(self._sides({**gain, **oracle_gain}))
        return ratio_of_contrasts(scores, gain, oracle_gain, **self._replicates({**gain, **oracle_gain}))

    def _sides(self, names: Mapping[str, float]) -> list[tuple[str, dict[str, Scores]]]:
        shared = self._shared_seeds(names)
        return [(name, self.scores(name, self.seeds(name) if shared is None else shared)) for name in names]

    def _shared_seeds(self, names: Mapping[str, float]) -> list[int] | None:
        """The seeds that all conditions have, where seeds are replicates that they share; else None."""
        if self.config.student.cold_starts == 1:
            return None
        return sorted(set.intersection(*(set(self.seeds(name)) for name in names)))

    def _replicates(self, names: Mapping[str, float]) -> dict[str, Any]:
        statistics, shared = self.config.statistics, self._shared_seeds(names)
        return {
            "clusters": {str(name): list(rows["cluster"]) for name, rows in self._items.groupby("test_set")},
            "starts": None if shared is None else [self.config.start_of[seed] for seed in shared],
            "paired_seeds": shared is not None,
            "level": statistics.level,
            "seed": statistics.seed,
            "draws": statistics.bootstrap_draws,
        }


def _is_scaling(overrides: Mapping[str, Mapping[str, Any]]) -> bool:
    return all(set(keys) <= _SCALING.get(section, set()) for section, keys in overrides.items())
