"""The readable version of every table: which columns it shows, under which names, with which caption and notes."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, TypedDict

import pandas as pd

from benchmarks.results import Results
from benchmarks.stats.verdicts import NOT_COMPUTED
from benchmarks.tables.ablations import ablation_table
from benchmarks.tables.calls import calls_table
from benchmarks.tables.contrasts import contrast_table
from benchmarks.tables.image_help import PARTS, image_help_table
from benchmarks.tables.main import (
    AVERAGE,
    REPORTED,
    difference_table,
    main_table,
    published_on_splits,
)
from benchmarks.tables.render import NOTHING, Table, each_run, interval, number, percent, points
from benchmarks.tables.scorers import OFFICIAL, OURS, scorer_table


class OneTeacher(TypedDict):
    """The part of one teacher's entry in ``informative.json`` that a page shows."""

    verdict: str


class TeacherVerdict(TypedDict):
    """The part of ``informative.json`` that a page shows; :func:`benchmarks.audit.teachers.summary` writes it."""

    sentence: str
    """The main teacher's verdict: a word, a colon, the reason."""
    teacher_seed: int
    teachers: dict[str, OneTeacher]
    """Seed → verdict."""
    agreement: float | None
    """Correlation of the teachers' penalties within groups; None where it is undefined."""


TEACHER_QUESTION = "Is the teacher informative?"
OTHER_TEACHERS = "Teachers of other seeds:"
"""How the two notes on the teachers begin."""


def main_page(results: Results, teacher: TeacherVerdict | None) -> Table:
    """Return the main table: one row per method, one column per test set.

    Args:
        results: results of the profile.
        teacher: the verdict on the teacher (``informative.json``); None where no method uses a teacher.
    """
    frame = main_table(results)
    config, reference = results.config, results.config.statistics.reference_method
    averages = frame[frame["test_set"] == AVERAGE].to_dict("records")
    by_cell = frame.set_index(["method", "test_set"])["accuracy"]
    rows = [
        {
            "method": row["method"],
            "seeds": str(row["n_seeds"]),
            **{name: percent(by_cell[row["method"], name]) for name in results.sets},
            "average": interval(row["accuracy"], row["ci_low"], row["ci_high"]),
            "runs": _runs_cell(row),
            f"difference to {reference}": interval(
                row[f"delta_vs_{reference}"], row["delta_low"], row["delta_high"], signed=True
            ),
            "verdict": _first_words(str(row["verdict"])) or NOTHING,
            "tool calls": percent(row["tool_call_rate"], 0),
            "that succeed": percent(row["tool_success_rate"], 0),
            "reported": _reported_cell(row),
        }
        for row in averages
    ]
    level = f"{config.statistics.level:.0%}"
    caption = (
        f"Profile `{config.profile}`: accuracy in percent on {max(row['n_items'] for row in averages)} questions, "
        f"greedy decoding; average over the sets with its {level} interval over items and seeds; each run's accuracy, "
        "collapsed where it ended below the policy that it started from. Difference: points "
        f"against {reference}, paired by item; the verdict is by p-values corrected over the methods (Holm). "
        "*reported*: what was published about the 3B model, or on the splits named, for comparison by eye only; what "
        "each was scored by is in the table `reported`."
    )
    flagged = [f"**{row['method']}**: {row['flags']}" for row in averages if row["flags"]]
    missing = [f"**{row['method']}** {row['verdict']}" for row in averages if row["verdict"].startswith(NOT_COMPUTED)]
    notes = [
        *missing,
        *(_released_note(name) for name in config.released),
        *(["Monitors: " + "; ".join(flagged) + "."] if flagged else []),
        *([] if teacher is None else [f"{TEACHER_QUESTION} {teacher_note(teacher)}"]),
        f"Behind any number: `python -m benchmarks.explain_cell {results.folder}/tables/main.csv method=iapo "
        "test_set=h_bar accuracy`. A `.run.json` beside each file says how it was made.",
    ]
    return Table("main", frame, caption, pd.DataFrame(rows), notes)


def _runs_cell(row: Mapping[Any, Any]) -> str:
    """Return every run's accuracy, and how many collapsed if any did."""
    runs = each_run(row["by_seed"], lambda run: percent(run, 0))
    collapsed = "" if pd.isna(row["collapsed"]) or not row["collapsed"] else f" ({row['collapsed']:.0f} collapsed)"
    return runs + collapsed


def _reported_cell(row: Mapping[Hashable, Any]) -> str:
    """Return what was published about a row: on the test sets, else on the authors' own splits."""
    splits = published_on_splits(row["method"]).groupby("test_set", sort=False)["percent"]
    if not pd.isna(row["reported"]) or not len(splits):
        return percent(row["reported"])
    return "; ".join(f"{split} {', '.join(number(value, 1) for value in values)}" for split, values in splits)


def _released_note(name: str) -> str:
    """Return what a row of released weights is and what was published about it, each figure with its scorer."""
    rows = published_on_splits(name).to_dict("records")
    figures = "; ".join(f"{row['test_set']} {number(row['percent'], 1)} ({row['scorer']})" for row in rows)
    return (
        f"**{name}**: weights that their authors have published, under their own prompt, not trained here. "
        f"Published: {figures or 'nothing that is in reported.csv'}."
    )


def _first_words(text: str) -> str:
    return "not computed" if text.startswith(NOT_COMPUTED) else text


def teacher_note(teacher: TeacherVerdict) -> str:
    """Return the verdict on the teacher in one line of Markdown."""
    others = {seed: each["verdict"] for seed, each in teacher["teachers"].items()}
    others.pop(str(teacher["teacher_seed"]), None)
    word, _, reason = teacher["sentence"].partition(":")
    note = f"**{word}**:{reason}."
    if others:
        note += f" {OTHER_TEACHERS} " + ", ".join(f"{seed} {verdict}" for seed, verdict in others.items())
        agreement = teacher["agreement"]
        note += "; they agree on nothing" if agreement is None else f"; agreement within groups r = {agreement:.2f}"
        note += "."
    return note


def contrast_page(results: Results) -> Table:
    """Return the comparisons that were declared beforehand, in their order."""
    frame = contrast_table(results)
    shown = pd.DataFrame(
        {
            "method": frame["method"],
            "against": frame["baseline"],
            "what for": frame["role"],
            "difference": [interval(r["delta"], r["low"], r["high"], signed=True) for r in frame.to_dict("records")],
            "each run": [each_run(value, points) for value in frame["by_seed"]],
            "sd of runs": [percent(value) for value in frame["run_sd"]],
            "error from questions": [percent(value) for value in frame["items_error"]],
            "p (in sequence)": [number(value, 4) for value in frame["p_sequence"]],
            "could have found": [percent(value) for value in frame["detectable"]],
            "share of the oracle's gain": [_share_cell(row) for row in frame.to_dict("records")],
            "verdict": [_first_words(value) for value in frame["verdict"]],
        }
    )
    statistics = results.config.statistics
    caption = (
        f"Declared beforehand and tested in this order at {1 - statistics.level:.0%} each, each only if all before it "
        "succeeded: differences of the average over the sets in points, over labels and seeds "
        f"({'paired by seed' if results.is_paired() else 'Welch'}). Could have found: the smallest difference found "
        f"with a chance of {statistics.power:.0%}. Sd of runs: standard deviation of the runs' differences. Error from "
        "questions: standard error that other questions, by asked label, would give these runs. Equivalent: within "
        f"±{100 * statistics.margin:g} points by two one-sided tests. If the oracle, which knows the right call, is "
        "not found better, this world cannot tell what another reward gains. Share of the oracle's gain: the "
        "difference over the oracle's, in percent, with Fieller's interval."
    )
    return Table("contrasts", frame, caption, shown, keys=2)


def contrast_lines(frame: pd.DataFrame) -> list[str]:
    """Return each declared comparison's verdict, difference and runs as one line of Markdown, in their order.

    Args:
        frame: of :func:`benchmarks.tables.contrasts.contrast_table`.
    """
    return [_contrast_line(row) for row in frame.to_dict("records")]


def _contrast_line(row: Mapping[Hashable, Any]) -> str:
    compared = f"`{row['method']}` against `{row['baseline']}`: **{row['verdict']}**"
    if pd.isna(row["delta"]):
        return f"{compared}."
    found = interval(row["delta"], row["low"], row["high"], signed=True)
    runs = each_run(row["by_seed"], points)
    return f"{compared}, {found} points (each run: {runs}; could have found {percent(row['detectable'])})."


def _share_cell(row: Mapping[Hashable, Any]) -> str:
    if row["oracle_share_reason"]:
        return f"{NOTHING} ({_first_words(row['oracle_share_reason'])})"
    return interval(row["oracle_share"], row["oracle_share_low"], row["oracle_share_high"])


def difference_page(results: Results) -> Table:
    """Return the table of every method against every baseline."""
    frame = difference_table(results)
    shown = pd.DataFrame(
        {
            "method": frame["method"],
            "against": frame["baseline"],
            "difference": [interval(r["delta"], r["low"], r["high"], signed=True) for r in frame.to_dict("records")],
            "p": [number(value, 4) for value in frame["p"]],
            "p (adjusted)": [number(value, 4) for value in frame["p_adjusted"]],
            "p (McNemar)": [number(value, 4) for value in frame["mcnemar_p"]],
            "could have found": [percent(value) for value in frame["detectable"]],
            "verdict": [_first_words(value) for value in frame["verdict"]],
        }
    )
    caption = (
        "Differences of the average over the sets in points, paired by item, over items and seeds; p-values corrected "
        "over the methods compared with one baseline (Holm), or for the sequence declared beforehand. Could have "
        "found: the smallest difference that this run would have found with a chance of "
        f"{results.config.statistics.power:.0%}. McNemar: over items, by the majority of the seeds; it speaks of these "
        "training runs only, not of others."
    )
    return Table("differences", frame, caption, shown, keys=2)


def image_help_page(results: Results) -> Table:
    """Return the table on whether edited images help."""
    frame = image_help_table(results)
    shown = pd.DataFrame(
        {
            "method": frame["method"],
            "with tool": [percent(value) for value in frame["accuracy"]],
            "original returned": [percent(value) for value in frame["accuracy_original"]],
            "tool off": [percent(value) for value in frame["accuracy_off"]],
            "help": [interval(r["help"], r["help_low"], r["help_high"], signed=True) for r in frame.to_dict("records")],
            "gain": [percent(value) for value in frame["gain"]],
            "harm": [percent(value) for value in frame["harm"]],
            **{name.replace("_", " "): [percent(value) for value in frame[name]] for name in PARTS},
        }
    )
    caption = (
        "Did the image help? Accuracy in percent with the tool, with the original image returned in the edited one's "
        "place, and without tools. Gain: questions that only the edited image gets right; harm: only the original. "
        "Against no tools, in the four parts of MED (arXiv 2602.01334), shares of all questions: call gain, wrong "
        "without tools and right after a call; schema gain, the same where tools were offered and none was called; "
        "call harm and schema harm, right without tools and wrong with them. With tool − tool off is their sum, harms "
        "subtracted. A policy that learned from calls alone may give no answer at all without tools."
    )
    return Table("image_help", frame, caption, shown)


def calls_page(results: Results) -> Table:
    """Return the table on how far the outcome follows from the call."""
    frame = calls_table(results)
    names = {"right": "right call", "other": "other call", "no": "no call"}
    shown = pd.DataFrame(
        {
            "method": frame["method"],
            **{f"{words}s": [percent(value) for value in frame[f"{kind}_calls"]] for kind, words in names.items()},
            **{
                f"right after {words}": [percent(value) for value in frame[f"right_after_{kind}"]]
                for kind, words in names.items()
            },
            "accuracy": [percent(value) for value in frame["accuracy"]],
            "room": [points(value) for value in frame["room"]],
        }
    )
    caption = (
        "Is the outcome a consequence of the call? Over the answers to all questions of all runs, in percent: first "
        "calls that name exactly the annotated labels, other calls, none; how often the answer is right after each. "
        "Where it is right after almost every right call and after no other, the outcome is the call, and a reward on "
        "calls has nothing to add. Room: points that accuracy would gain if every call were right and answered as well "
        "as those that are."
    )
    return Table("calls", frame, caption, shown)


def scorers_page(results: Results) -> Table:
    """Return the same answers by our rule and by each test set's published one."""
    frame = scorer_table(results)
    cells = frame.set_index(["method", "test_set"])
    sets = [name for name in dict.fromkeys(frame["test_set"]) if name != AVERAGE]
    rows = [
        {
            "method": method,
            **{
                name: " / ".join(percent(cells.loc[(method, name), column]) for column in (OURS, OFFICIAL))
                for name in [*sets, AVERAGE]
            },
            "judged differently": percent(cells.loc[(method, AVERAGE), "disagree"]),
        }
        for method in dict.fromkeys(frame["method"])
    ]
    caption = (
        "What is the scorer worth? Accuracy in percent by our rule / by the published rule of each test set: ChartQA's "
        "relaxed accuracy, and TableVQA-Bench's evaluator; the average is over these sets, and so is the share of the "
        "answers that the two judge differently. CharXiv's rule asks a judge model and is left out."
    )
    return Table("scorers", frame, caption, pd.DataFrame(rows))


def reported_page() -> Table:
    """Return the table of published accuracies, with their sources."""
    frame = pd.read_csv(REPORTED)
    method = frame["method"].where(~frame["method"].str.startswith("released", na=False))
    # Sentences, which stand below the table once each.
    source = frame[["source", "place", "kind", "certainty"]].agg("; ".join, axis="columns")
    scorers, sources = (
        {text: str(place) for place, text in enumerate(texts.unique(), 1)} for texts in (frame["scorer"], source)
    )
    shown = pd.DataFrame(
        {
            "model": frame["model"] + (", " + method).fillna(""),
            "on": frame["measured_on"],
            "reported": [number(value, 1) for value in frame["percent"]],
            "scorer": frame["scorer"].map(scorers),
            "source": source.map(sources),
        }
    )
    caption = (
        "Published accuracies in percent; none of them was measured here. Figures of different scorers do not compare: "
        "one re-evaluation gives Qwen2.5-VL-3B 16.8 by exact match and 52.0 by a judge."
    )
    notes = [
        f"{what} {place}: {text}."
        for what, of in (("Scorer", scorers), ("Source", sources))
        for text, place in of.items()
    ]
    return Table("reported", frame, caption, shown, notes)


def ablation_page(results: Results) -> Table:
    """Return the ablation table."""
    frame = ablation_table(results)
    shown = pd.DataFrame(
        {
            "setting": frame["setting"],
            "value": frame["value"],
            "accuracy": [percent(value) for value in frame["accuracy"]],
            "difference": [
                interval(r.get("delta"), r.get("low"), r.get("high"), signed=True) for r in frame.to_dict("records")
            ],
            "verdict": [_first_words(value) for value in frame["verdict"]],
            "tool calls": [percent(value, 0) for value in frame["call_rate"]],
            "penalty": [number(value, 3) for value in frame["penalty"]],
        }
    )
    ablations = results.config.ablations
    caption = (
        f"Ablations of {ablations.method}: one setting changed at a time, against {ablations.method} as configured; "
        "points of the average over the sets, paired by item, p-values corrected over the rows (Holm). Penalty: mean "
        "of the second half of training."
    )
    return Table("ablations", frame, caption, shown, keys=2)
