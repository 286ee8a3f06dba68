"""The answer of the study's sparse half in plain words, which follow from the contrasts by rules.

Does the oracle win at every sparsity; does the studied method, over all scalings, and by what share of the oracle's
gain; where does scaling per group harm; is any setting of the studied method better than the same with its matched
control?
"""

from __future__ import annotations

import pandas as pd

from benchmarks.mechanism.oracle_share import ORACLE, TOO_UNCERTAIN, oracle_share
from benchmarks.mechanism.sparsity import SparseStudy
from benchmarks.mechanism.sparsity_tables import CONTROL, HARM, PRIMARY
from benchmarks.stats.multiplicity import holm
from benchmarks.stats.ratio import Ratio
from benchmarks.stats.verdicts import CANNOT_TELL, verdict
from benchmarks.tables.render import NOTHING


def answer(study: SparseStudy, contrasts: pd.DataFrame) -> list[str]:
    """Return one or more sentences on each question, in that order, and on the penalty without differences.

    Args:
        study: the records.
        contrasts: of :func:`benchmarks.mechanism.sparsity_tables.contrasts_table`.
    """
    parts = [
        oracle_sentence(study, contrasts),
        primary_sentence(contrasts),
        share_sentence(study, contrasts),
        harm_sentence(study, contrasts),
        control_sentence(study, contrasts),
        constant_sentence(contrasts),
    ]
    return [part for part in parts if part]


def oracle_sentence(study: SparseStudy, contrasts: pd.DataFrame) -> str:
    """Say at which starts the oracle is found better than the outcome alone, and where nothing can be told."""
    rows = contrasts[contrasts["role"] == ORACLE]
    if rows.empty:
        return "No oracle was trained, so nothing says whether this world could show a gain."
    missed = list(rows.loc[rows["verdict"] != "better", "start"])
    found = "; ".join(f"`{row['start']}` {_points(row)}" for _, row in rows.iterrows())
    if not missed:
        return f"The oracle, which knows the right call, is better than the outcome alone at every start: {found}."
    return (
        f"The oracle, which knows the right call, is not found better than the outcome alone at "
        f"{', '.join(f'`{start}`' for start in missed)}, where this world therefore cannot tell: {found}."
    )


def primary_sentence(contrasts: pd.DataFrame) -> str:
    """Say what the declared comparisons found at each start, averaged over the scalings."""
    rows = contrasts[contrasts["role"] == PRIMARY]
    parts = []
    for (method, against), found in rows.groupby(["method", "against"], sort=False):
        said = "; ".join(f"`{row['start']}` {_points(row)}, {row['verdict']}" for _, row in found.iterrows())
        parts.append(f"`{method}` against `{against}`, averaged over the scalings: {said}.")
    return " ".join(parts)


def share_sentence(study: SparseStudy, contrasts: pd.DataFrame) -> str:
    """Say how much of the oracle's gain over the outcome alone the studied method has at each start."""
    alone = contrasts["against"] == study.config.statistics.reference_method
    rows = contrasts[(contrasts["role"] == PRIMARY) & alone & (contrasts["method"] == study.subject)]
    shares = {row["start"]: _share(oracle_share(study, row, contrasts)) for _, row in rows.iterrows()}
    if set(shares.values()) <= {NOTHING}:
        return ""
    said = "; ".join(f"`{start}` {share}" for start, share in shares.items())
    return f"Of the oracle's gain `{study.subject}` has, averaged over the scalings: {said}."


def harm_sentence(study: SparseStudy, contrasts: pd.DataFrame) -> str:
    """Say at which starts scaling per group harms the studied method, and whether the scaling is why."""
    rows = contrasts[contrasts["role"] == HARM]
    if rows.empty:
        return ""
    in_order = [row for start in study.starts for _, row in rows[rows["start"] == start].iterrows()]
    return "\n".join(
        [
            f"Scaled per group, `{study.subject}` against the outcome alone:",
            *(f"  - {_harm_at(study, row)}" for row in in_order),
        ]
    )


def _harm_at(study: SparseStudy, row: pd.Series) -> str:
    """What scaling per group costs at one start, what the logs say of it, and what another scaling changes."""
    found = f"`{row['start']}`: {_points(row)}, {row['verdict']}.{_composition(study, row['name'])}"
    if row["verdict"] != "worse":
        return found
    changes = _other_scalings(study, row)
    removed = any(change["verdict"] == "better" for change in changes)
    reason = "Scaling per group harms" if removed else "It is not shown that scaling per group is why"
    said = ", ".join(f"`{change['setting']}` {_points(change)} ({change['verdict']})" for change in changes)
    more = f": another scaling changes the difference by {said}" if changes else ""
    return f"{found} {reason}{more}."


def _composition(study: SparseStudy, name: str) -> str:
    """What the logs say of the first steps, as a sentence behind another one."""
    term = study.term(name)
    share, alone = (study.early(name, f"advantage/{term}_{what}") for what in ("share", "alone"))
    flat = study.early(name, "advantage/flat_outcomes")
    if any(map(pd.isna, (share, alone, flat))):
        return ""
    return (
        f" Early on {flat:.0%} of the groups have equal outcomes, the penalty is {share:.0%} of the advantage, and it "
        f"is alone in {alone:.0%} of the groups."
    )


def _other_scalings(study: SparseStudy, harm: pd.Series) -> list[pd.Series]:
    """What each other scaling changes of a difference to the outcome alone, corrected for the number of scalings."""
    statistics = study.config.statistics
    changed = {}
    for setting in study.scalings:
        cell = study.cell(study.subject, setting, harm["start"])
        base = study.outcome_alone(cell) if cell and cell.name != harm["name"] else None
        if cell is None or base is None or base.name == harm["baseline"]:
            continue
        weights = {cell.name: 1.0, base.name: -1.0, harm["name"]: -1.0, harm["baseline"]: 1.0}
        changed[setting] = study.contrast(weights)
    adjusted = holm([found.p for found in changed.values()])
    changes = []
    for (setting, found), p in zip(changed.items(), adjusted, strict=True):
        words = verdict(found, p, level=statistics.level, margin=statistics.margin)
        facts = {"setting": setting, "delta": found.delta, "low": found.low, "high": found.high, "verdict": words}
        changes.append(pd.Series(facts))
    return changes


def control_sentence(study: SparseStudy, contrasts: pd.DataFrame) -> str:
    """Say in which settings a method is better, or worse, than its matched control, and by what share of the oracle."""
    rows = contrasts[contrasts["role"] == CONTROL]
    if rows.empty:
        return ""
    better, worse = (rows[rows["verdict"] == word] for word in ("better", "worse"))
    tried = f"{len(rows)} pairs of setting and start"
    against = f"its matched control (`{next(iter(study.controls.values()))}`)"
    if better.empty and worse.empty:
        return f"No form of the reward is found better than {against}, in {tried} ({_found_nothing(rows)})."
    parts = [
        f"{word} in {len(found)} ({'; '.join(_pair(study, row, contrasts) for _, row in found.iterrows())})"
        for word, found in (("better", better), ("worse", worse))
        if len(found)
    ]
    return f"Of {tried}, {study.subject} is, corrected for their number, {' and '.join(parts)} than {against}."


def _found_nothing(rows: pd.DataFrame) -> str:
    """How many of some comparisons are equivalent, how many cannot tell, and how wide the rest are."""
    equal = rows["verdict"].str.startswith("equivalent")
    blind = rows["verdict"] == CANNOT_TELL
    open_rows = rows[~equal & ~blind]
    parts = [f"{equal.sum()} equivalent"]
    if blind.any():
        parts.append(f"{blind.sum()} where this world cannot tell")
    if len(open_rows):
        width = 100 * (open_rows["high"] - open_rows["low"]).median() / 2
        parts.append(f"{len(open_rows)} inconclusive, by a median of ±{width:.1f} points")
    return ", ".join(parts)


def _pair(study: SparseStudy, row: pd.Series, contrasts: pd.DataFrame) -> str:
    share = oracle_share(study, row, contrasts)
    of_oracle = "" if isinstance(share, str) else f", {_share(share)} of the oracle's gain"
    return f"`{row['setting']}` at `{row['start']}`: {_points(row)}{of_oracle}"


def constant_sentence(contrasts: pd.DataFrame) -> str:
    """Say whether a penalty without differences changes anything, which it must not."""
    rows = contrasts[contrasts["method"] == "constant_penalty"]
    if rows.empty:
        return ""
    wrong = rows[rows["verdict"].isin(["better", "worse"])]
    row = (rows if wrong.empty else wrong).iloc[0]
    if wrong.empty:
        return f"A penalty without differences is not found to change anything, and must not: {_points(row)}."
    return (
        f"A penalty without differences is {row['verdict']} than the outcome alone ({_points(row)}), which it cannot "
        "be: do not trust the other verdicts."
    )


def _share(share: Ratio | str) -> str:
    """A share with its interval; that it is too uncertain; a dash where there is no gain to have a share of."""
    if isinstance(share, str):
        return share if share == TOO_UNCERTAIN else NOTHING
    return f"{share.value:.0%} [{share.low:.0%}, {share.high:.0%}]".replace("-", "−")


def _points(row: pd.Series) -> str:
    text = f"{100 * row['delta']:+.1f} points [{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]"
    return text.replace("-", "−")
