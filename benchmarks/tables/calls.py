"""The table on what follows from the call: how often an answer is right after the right call, another, and none."""

from __future__ import annotations

import numpy as np
import pandas as pd

from benchmarks.results import NO_TOOLS, Results

KINDS = ("right", "other", "no")
"""Right: the first call names exactly the annotated labels. Other: any other attempt. No: no attempt."""


def calls_table(results: Results) -> pd.DataFrame:
    """Compute how often the answer is right after each kind of call, one row per policy.

    Returns:
        Fractions, unweighted means over the runs' answers to all questions: ``accuracy``; ``right_calls``,
        ``other_calls``, ``no_calls``: how often the first call names exactly the annotated labels, is another one, or
        is not made; ``right_after_right``, ``right_after_other``, ``right_after_no``: share of right answers among
        these, nan where there are none; ``room``: what accuracy would gain if every call were right and answered as
        well as those that are. nan everywhere where records are missing.
    """
    return pd.DataFrame([_row(results, name) for name in results.rows if not name.endswith(NO_TOOLS)])


def _row(results: Results, name: str) -> dict[str, object]:
    columns = ["accuracy", *(f"{kind}_calls" for kind in KINDS), *(f"right_after_{kind}" for kind in KINDS), "room"]
    if results.fault(name, results.sets):
        return {"method": name, **dict.fromkeys(columns, np.nan)}
    records = pd.concat([results.of(name, each) for each in results.sets])
    right = records["call_right"].astype(bool)
    called = records["called"].astype(bool)
    masks = {"right": right, "other": called & ~right, "no": ~called & ~right}
    shares = {f"{kind}_calls": float(mask.mean()) for kind, mask in masks.items()}
    after = {f"right_after_{kind}": float(records.loc[mask, "score"].mean()) for kind, mask in masks.items()}
    accuracy = float(records["score"].mean())
    return {"method": name, "accuracy": accuracy, **shares, **after, "room": after["right_after_right"] - accuracy}
