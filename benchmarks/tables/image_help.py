"""The table on whether edited images help: accuracy with the tool, with the original returned, and without tools."""

from __future__ import annotations

import numpy as np
import pandas as pd

from benchmarks.results import Results
from benchmarks.stats.paired import macro_paired_difference

Row = dict[str, object]


def image_help_table(results: Results) -> pd.DataFrame:
    """Compute accuracies with and without the edited image, one row per policy; means over the test sets.

    The comparison and the terms *gain* and *harm* follow arXiv 2602.01334.

    Returns:
        Fractions: ``accuracy`` with tools, ``accuracy_original`` with the same call but the original image returned,
        ``accuracy_off`` without tools; ``help`` = accuracy − accuracy_original with its interval over items and
        seeds; ``gain``: share of questions answered correctly only with the edited image; ``harm``: only with the
        original. nan where records are missing or lack the two extra answers.
    """
    return pd.DataFrame([_row(results, name) for name in results.rows if not name.endswith("_no_tools")])


def _row(results: Results, name: str) -> Row:
    columns = ("accuracy", "accuracy_original", "accuracy_off", "help", "help_low", "help_high", "gain", "harm")
    here = {each: results.of(name, each) for each in results.sets}
    unanswered = any(rows[["score_original", "score_off"]].isna().any(axis=None) for rows in here.values())
    if results.fault(name, results.sets) or unanswered:
        return {"method": name, **dict.fromkeys(columns, np.nan)}
    edited, original, off = (
        {each: results.scores(name, each, column) for each in here}
        for column in ("score", "score_original", "score_off")
    )
    statistics = results.config.statistics
    # Both scores belong to the same run, so their difference is one number per item and seed.
    gaps = {each: edited[each] - original[each] for each in edited}
    difference = macro_paired_difference(
        gaps,
        {each: np.zeros((1, values.shape[1])) for each, values in gaps.items()},
        clusters={each: results.clusters(name, each) for each in here},
        level=statistics.level,
        seed=statistics.seed,
        draws=statistics.bootstrap_draws,
    )
    values = (
        _mean(edited),
        _mean(original),
        _mean(off),
        difference.delta,
        difference.low,
        difference.high,
        np.mean([((edited[each] == 1) & (original[each] == 0)).mean() for each in edited]),
        np.mean([((edited[each] == 0) & (original[each] == 1)).mean() for each in edited]),
    )
    return {"method": name, **dict(zip(columns, values, strict=True))}


def _mean(by_set: dict[str, np.ndarray]) -> float:
    return float(np.mean([values.mean() for values in by_set.values()]))
