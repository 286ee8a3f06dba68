"""The page of the study's sparse half: the answers, the starts, one table of cells for each start, the curves."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from benchmarks.mechanism.oracle_share import ORACLE, WIDEST
from benchmarks.mechanism.sparsity import EARLY_STEPS, SparseStudy
from benchmarks.mechanism.sparsity_tables import CONTROL, HARM, OUTCOME, settings_table
from benchmarks.tables.render import NOTHING, interval, number, percent

TITLE = "## Where right calls are rare"
GLANCE = "At a glance"
"""Heading of the table that README shows."""

_SCALED = {"group": "scaled per group", "batch": "scaled per batch", "none": "not scaled"}
"""``train.scale_rewards`` → what is said of the advantage."""


def page(
    study: SparseStudy, answers: Sequence[str], starts: pd.DataFrame, cells: pd.DataFrame, contrasts: pd.DataFrame
) -> str:
    """Return the half as Markdown, from its heading on; behind it, as a list, the answers.

    Args:
        study: the records.
        answers: of :func:`benchmarks.mechanism.sparsity_answer.answer`.
        starts: of :func:`benchmarks.mechanism.sparsity_tables.starts_table`.
        cells: of :func:`benchmarks.mechanism.sparsity_tables.cells_table`.
        contrasts: of :func:`benchmarks.mechanism.sparsity_tables.contrasts_table`.
    """
    statistics = study.config.statistics
    return "\n".join(
        [
            TITLE,
            "",
            "\n".join(f"- {each}" for each in answers),
            "",
            "![learning curves](page.png)",
            "",
            f"### {GLANCE}",
            "",
            f"Points over the outcome alone from the same start, with {statistics.level:.0%} intervals. Right calls: "
            f"percent of sampled turns before training whose call is right. `{statistics.oracle}`, the oracle, knows "
            "the right call (mean over the scalings of the advantage). Bold: found better or worse.",
            "",
            _markdown(_shown_gains(study, contrasts)),
            "",
            _gains_in_words(study, contrasts),
            "",
            "### The starts",
            "",
            "In percent. Right calls, groups with one, calls: of turns sampled on training prompts at temperature "
            f"{study.config.train.temperature:g}. Accuracy, and how often the answer is right after the right call and "
            "after another or none: greedy, on test questions, before training.",
            "",
            _markdown(_shown_starts(starts)),
            "",
            *_sections(study, cells),
            "### Against the matched control",
            "",
            "Points; *better* and *worse* corrected for their number (Holm), *equivalent* each at 5 %.",
            "",
            _markdown(_shown_controls(contrasts)),
            "",
            _outcome_in_words(study, contrasts),
            "",
            "### Settings by dev accuracy",
            "",
            "In percent: mean dev accuracy over a run, averaged over the starts. A default is chosen by this, not by "
            "test questions.",
            "",
            _markdown(_shown_settings(study, settings_table(study, cells))),
            "",
            "### How to read the tables",
            "",
            f"- Flat, share, alone: over the first {EARLY_STEPS} steps, in percent: groups whose outcomes are all "
            "equal; the part of the advantage that is not the outcome's; groups in which only that part differs.",
            f"- Steps: the first at which each run had {statistics.target_accuracy:.0%} dev accuracy (- if none). "
            "Area: mean dev accuracy over the run.",
            "- Accuracy: of test questions, mean and each run.",
            "- Difference: points to the outcome alone with the advantage scaled alike, "
            f"{statistics.level:.0%} interval over asked labels and runs, each by itself; verdicts are corrected for "
            "their number, so a row can be inconclusive whose interval leaves out 0.",
            "- Verdict: the comparisons averaged over the scalings were declared beforehand. At each start they are "
            "tested one after the other, the oracle first, and each only if all before it succeeded; they are "
            f"corrected for the number of starts. {study.subject}'s under scaling per group, and all others, are "
            "corrected for the number of their kind (Holm). *Equivalent* is tested at 5 % each.",
            "- Share of the oracle's gain: in percent, with Fieller's interval; only where the oracle is found better. "
            f"Too uncertain: an interval without an end, or wider than {WIDEST:.0%}.",
            "",
        ]
    )


def _shown_gains(study: SparseStudy, contrasts: pd.DataFrame) -> pd.DataFrame:
    """The oracle's gain from each start, and the studied method's under each scaling."""
    oracle = {row["start"]: _gain(row) for _, row in contrasts[contrasts["role"] == ORACLE].iterrows()}
    gains = _gains_by_scaling(study, contrasts)
    by_cell = {(row["setting"], row["start"]): _gain(row) for _, row in gains.iterrows()}
    rows = []
    for start in study.starts:
        row = {"start": f"`{start}`", "right calls": percent(study.right_rate(start))}
        row[f"`{study.config.statistics.oracle}`"] = oracle.get(start, NOTHING)
        for setting in study.scalings:
            shown = by_cell.get((setting, start), NOTHING)
            row[f"`{study.subject}`, {_SCALED[study.scaling(setting)]}"] = shown
        rows.append(row)
    return pd.DataFrame(rows)


def _gains_in_words(study: SparseStudy, contrasts: pd.DataFrame) -> str:
    """Where the oracle wins and where it cannot tell, and where the studied method wins and loses."""
    oracle, subject = contrasts[contrasts["role"] == ORACLE], _gains_by_scaling(study, contrasts)
    won = oracle.loc[oracle["verdict"] == "better", "start"]
    everywhere = len(won) == len(study.starts)
    at = "at every start" if everywhere else f"at {_listed(won)}" if len(won) else "nowhere"
    found = {word: _places(study, subject[subject["verdict"] == word]) for word in ("better", "worse")}
    lost = [start for start in study.starts if start in set(oracle["start"]) - set(won)]
    blind = f" At {_listed(lost)} this world cannot tell." if lost else ""
    return (
        f"The oracle wins {at}.{blind} `{study.subject}` wins {found['better'] or 'nowhere'}, and loses "
        f"{found['worse'] or 'nowhere'}."
    )


def _outcome_in_words(study: SparseStudy, contrasts: pd.DataFrame) -> str:
    """In which settings, forms of the reward among them, the studied method wins and loses against the outcome."""
    alone = contrasts["role"].isin([OUTCOME, HARM]) & (contrasts["method"] == study.subject)
    found = {}
    for word in ("better", "worse"):
        rows = contrasts[alone & (contrasts["verdict"] == word)]
        found[word] = "; ".join(f"`{row['setting']}` at `{row['start']}` {_gain(row)}" for _, row in rows.iterrows())
    return (
        f"Against the outcome alone, scaled alike and corrected for their number, `{study.subject}` wins in: "
        f"{found['better'] or 'none'}. It loses in: {found['worse'] or 'none'}."
    )


def _gains_by_scaling(study: SparseStudy, contrasts: pd.DataFrame) -> pd.DataFrame:
    alone = contrasts["role"].isin([OUTCOME, HARM]) & (contrasts["method"] == study.subject)
    return contrasts[alone & contrasts["setting"].isin(study.scalings)]


def _places(study: SparseStudy, rows: pd.DataFrame) -> str:
    """Where some comparisons were made: the scalings, each with its starts."""
    made = set(zip(rows["setting"], rows["start"], strict=True))
    starts = {setting: [start for start in study.starts if (setting, start) in made] for setting in study.scalings}
    return "; ".join(f"{_SCALED[study.scaling(name)]} at {_listed(at)}" for name, at in starts.items() if at)


def _listed(starts: Iterable[str]) -> str:
    return ", ".join(f"`{start}`" for start in starts)


def _gain(row: pd.Series) -> str:
    shown = interval(row["delta"], row["low"], row["high"], signed=True)
    return f"**{shown}**" if row["verdict"] in ("better", "worse") else shown


def _sections(study: SparseStudy, cells: pd.DataFrame) -> list[str]:
    lines = []
    for start in study.starts:
        shown = pd.DataFrame([_shown_cell(row) for row in cells[cells["start"] == start].to_dict("records")])
        rate = percent(study.right_rate(start))
        lines += [f"### From `{start}`: {rate} % of sampled turns call what is right", "", _markdown(shown), ""]
    return lines


def _shown_starts(starts: pd.DataFrame) -> pd.DataFrame:
    names = {
        "right_rate": "right calls",
        "groups_with_right": "groups with one",
        "call_rate": "calls",
        "accuracy": "accuracy",
        "right_after_right": "right after the right call",
        "right_after_other": "right after another or none",
    }
    return pd.DataFrame(
        {"start": starts["start"], **{shown: [percent(v) for v in starts[name]] for name, shown in names.items()}}
    )


def _shown_cell(row: Mapping[Hashable, Any]) -> dict[str, str]:
    runs = " ".join(percent(float(value)) for value in row["accuracy_by_seed"].split())
    return {
        "setting": row["setting"],
        "method": row["method"],
        "flat": percent(row["flat_outcomes"], 0),
        "share": percent(row["term_share"], 0),
        "alone": percent(row["term_alone"], 0),
        "steps": row["steps_to_target"],
        "area": percent(row["dev_area"]),
        "accuracy": f"{percent(row['accuracy'])} ({runs})",
        "difference": interval(row["delta"], row["delta_low"], row["delta_high"], signed=True),
        "verdict": NOTHING if pd.isna(row["verdict"]) else row["verdict"],
        "share of the oracle's gain": _shown_share(row),
    }


def _shown_share(row: Mapping[Hashable, Any]) -> str:
    """The share with its interval, or a dash and why there is none."""
    reason = row["oracle_share_reason"]
    if not reason:
        return interval(row["oracle_share"], row["oracle_share_low"], row["oracle_share_high"])
    return NOTHING if reason.startswith("it is") else f"{NOTHING} ({reason})"


def _shown_controls(contrasts: pd.DataFrame) -> pd.DataFrame:
    rows = contrasts[contrasts["role"] == CONTROL].to_dict("records")
    return pd.DataFrame(
        [
            {
                "start": row["start"],
                "setting": row["setting"],
                "difference": interval(row["delta"], row["low"], row["high"], signed=True),
                "p (adjusted)": number(row["p_adjusted"], 4),
                "verdict": row["verdict"],
            }
            for row in rows
        ]
    )


def _shown_settings(study: SparseStudy, settings: pd.DataFrame) -> pd.DataFrame:
    names = {
        "studied": study.subject,
        "control": study.controls.get(study.subject, "control"),
        "outcome": f"{study.config.statistics.reference_method}, scaled alike",
    }
    shown = {label: [percent(value) for value in settings[name]] for name, label in names.items()}
    return pd.DataFrame({"setting": settings["setting"], **shown})


def _markdown(table: pd.DataFrame) -> str:
    return table.to_markdown(index=False, disable_numparse=True)
