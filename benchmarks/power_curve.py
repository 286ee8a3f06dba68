"""How small a difference a longer run could find: points against minutes, from a finished run's own spread and cost."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import pandas as pd

from benchmarks.stats.paired import smallest_detectable, unbiased

_ONCE = "teachers"
"""Row of the cost table that more cold starts of the student do not add to."""


def power_curve(
    contrasts: pd.DataFrame,
    cost: pd.DataFrame,
    runs: Sequence[int],
    *,
    cores: int = 2,
    level: float = 0.95,
    power: float = 0.8,
) -> pd.DataFrame:
    """Return what each number of cold starts, one run each, would cost and could find.

    Args:
        contrasts: of :func:`benchmarks.tables.contrasts.contrast_table`.
        cost: of :func:`benchmarks.tables.training.cost_table`, of the same run.
        runs: numbers of cold starts, at least 2.
        cores: jobs that run at once.
        level: confidence level of the test.
        power: chance of finding a difference of the stated size.

    Returns:
        One row per number: ``runs``, ``minutes``, and one column per comparison, ``<method> − <baseline>``: the
        smallest difference that is found with this chance, in [0, 1]; nan for one with fewer than two runs.
    """
    variances = {f"{row['method']} − {row['baseline']}": _variances(row) for row in contrasts.to_dict("records")}
    return pd.DataFrame(
        [
            {"runs": n, "minutes": 60 * _hours(cost, n) / cores}
            | {
                name: smallest_detectable(math.sqrt(of_runs / n + of_questions), n - 1, power, level)
                for name, (of_runs, of_questions) in variances.items()
            }
            for n in runs
        ]
    )


def _variances(contrast: Mapping[Hashable, Any]) -> tuple[float, float]:
    """Variance of a difference between runs, and what the questions add to its mean's, which more runs do not lower.

    nan for both with fewer than two runs.
    """
    runs = len(str(contrast["by_seed"]).split())
    if runs < 2:
        return math.nan, math.nan
    return unbiased(float(contrast["run_sd"]), runs - 1) ** 2, float(contrast["items_error"]) ** 2


def _hours(cost: pd.DataFrame, runs: int) -> float:
    """Hours of all jobs with this many cold starts of the student; the teachers stay."""
    hours = dict(zip(cost["what"], cost["hours"].astype(float), strict=True))
    counts = dict(zip(cost["what"], cost["runs"].astype(int), strict=True))
    teachers = counts["teachers"]
    now = counts["cold starts"] - teachers
    started = hours.pop("cold starts")
    shared = hours.pop(_ONCE)
    return shared + sum(hours.values()) * runs / now + started * (runs + teachers) / (now + teachers)
