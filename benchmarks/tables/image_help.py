"""The table on whether edited images help: accuracy with the tool, with the original returned, and without tools."""

from __future__ import annotations

import numpy as np
import pandas as pd

from benchmarks.results import Results
from benchmarks.stats.components import Scores
from benchmarks.stats.paired import linear_contrast

Row = dict[str, object]


def image_help_table(results: Results) -> pd.DataFrame:
    """Compute accuracies with and without the edited image, one row per policy; means over the test sets.

    Returns:
        Fractions: ``accuracy`` with tools, ``accuracy_original`` with the same call but the original image returned,
        ``accuracy_off`` without tools; ``help`` = accuracy − accuracy_original with its interval over items and
        seeds; ``gain``: share of questions answered correctly only with the edited image; ``harm``: only with the
        original. The four parts of the difference to no tools (MED, arXiv 2602.01334), whose sum with signs is
        accuracy − accuracy_off: ``call_gain``, shares of questions answered wrongly without tools and correctly with
        them after a call, ``schema_gain``, the same without a call; ``call_harm``, ``schema_harm``: correctly without
        tools and wrongly with them. nan where records are missing or lack the two extra answers.
    """
    return pd.DataFrame([_row(results, name) for name in results.rows if not name.endswith("_no_tools")])


def _row(results: Results, name: str) -> Row:
    columns = (
        "accuracy",
        "accuracy_original",
        "accuracy_off",
        "help",
        "help_low",
        "help_high",
        "gain",
        "harm",
        *PARTS,
    )
    here = {each: results.of(name, each) for each in results.sets}
    unanswered = any(rows[["score_original", "score_off"]].isna().any(axis=None) for rows in here.values())
    if results.fault(name, results.sets) or unanswered:
        return {"method": name, **dict.fromkeys(columns, np.nan)}
    edited, original, off = (
        {each: results.scores(name, each, column) for each in here}
        for column in ("score", "score_original", "score_off")
    )
    # Both scores belong to the same run, so their difference is one number per item and seed.
    gaps = {each: edited[each] - original[each] for each in edited}
    difference = linear_contrast([(1.0, gaps)], **results.replicates(name, results.sets))
    values = (
        _mean(edited),
        _mean(original),
        _mean(off),
        difference.delta,
        difference.low,
        difference.high,
        np.mean([((edited[each] == 1) & (original[each] == 0)).mean() for each in edited]),
        np.mean([((edited[each] == 0) & (original[each] == 1)).mean() for each in edited]),
        *np.mean([_parts(edited[each], off[each], results.scores(name, each, "called")) for each in edited], axis=0),
    )
    return {"method": name, **dict(zip(columns, values, strict=True))}


PARTS = ("call_gain", "schema_gain", "call_harm", "schema_harm")


def _parts(with_tools: Scores, without: Scores, called: Scores) -> list[float]:
    """MED's four parts on one test set, [4]; partial credit counts as far as it was gained or lost."""
    change = with_tools - without
    gained, lost = np.maximum(change, 0), np.maximum(-change, 0)
    return [float((part * mask).mean()) for part in (gained, lost) for mask in (called, 1 - called)]


def _mean(by_set: dict[str, np.ndarray]) -> float:
    return float(np.mean([values.mean() for values in by_set.values()]))
