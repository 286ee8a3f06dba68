"""The table on what the scorer is worth: the same answers by our rule and by each test set's own published rule."""

from __future__ import annotations

import numpy as np
import pandas as pd

from benchmarks.results import NO_TOOLS, Results

OURS, OFFICIAL = "ours", "official"


def sets_with_rule(results: Results) -> list[str]:
    """Return the run's test sets whose published rule needs no judge model."""
    scored = results.records.groupby("test_set")["score_official"].count()
    return [name for name in results.sets if scored.get(name, 0)]


def scorer_table(results: Results) -> pd.DataFrame:
    """Compare the two scores of every policy on the test sets whose published rule needs no judge model.

    Returns:
        One row per policy and test set, and one for the unweighted mean over these sets (``average``): ``ours`` and
        ``official`` in [0, 1], and ``disagree``, the share of the answers that the two rules judge differently. nan
        where records are missing.
    """
    names = [name for name in results.rows if not name.endswith(NO_TOOLS)]
    rows = [row for name in names for row in _rows(results, name)]
    return pd.DataFrame(rows, columns=["method", "test_set", OURS, OFFICIAL, "disagree"])


def _rows(results: Results, name: str) -> list[dict[str, object]]:
    found = {test_set: _compared(results, name, test_set) for test_set in sets_with_rule(results)}
    if found:
        found["average"] = np.mean(list(found.values()), axis=0)
    return [
        {"method": name, "test_set": test_set, OURS: ours, OFFICIAL: official, "disagree": disagree}
        for test_set, (ours, official, disagree) in found.items()
    ]


def _compared(results: Results, name: str, test_set: str) -> np.ndarray:
    """Both means and the share judged differently, [3]."""
    rows = results.of(name, test_set)
    if results.fault(name, [test_set]):
        return np.full(3, np.nan)
    differ = (rows["score"] != rows["score_official"]).mean()
    return np.array([rows["score"].mean(), rows["score_official"].mean(), differ])
