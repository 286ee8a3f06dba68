"""What a run says of its jobs: plain words for each rule, and times that a person reads."""

from __future__ import annotations

import re
from collections.abc import Mapping

PHRASES = {
    "all": "finish/finished what was asked for",
    "audit": "audit/audited cache and attribution",
    "build_data": "build/built the data",
    "cache_teacher": "cache/cached the attributions of teacher {start} ({cache})",
    "cold_start": "make/made {policy} {start}",
    "compare_options": "compare/compared the options of attribution",
    "cut_prompts": "cut/cut out prompts for the cache of teacher {start} ({cache})",
    "download": "download/downloaded {repo}",
    "download_prompt": "download/downloaded a prompt of released weights",
    "evaluate_policy": "evaluate/evaluated {method}",
    "evaluate_policy_off_the_shelf": "evaluate/evaluated {method}",
    "evaluate_released": "evaluate/evaluated the released {method}",
    "fill_cache": "fill/filled the cache of teacher {start} ({cache})",
    "informative_teacher": "ask/asked whether the teacher is informative",
    "join_cache": "join/joined the cache of teacher {start} ({cache})",
    "make_ablations": "make/made the ablations' table",
    "make_tables": "make/made tables and figures",
    "measure_condition": "measure/measured a condition's policies",
    "mechanism_report": "write/wrote the page of the study",
    "perf": "time/timed steps and attribution",
    "sample_student": "sample/sampled calls of student {start} ({stage})",
    "show_table": "put/put the table into results/",
    "sparsity_report": "write/wrote the page of the study",
    "table_and_pages": "finish/finished the table and its pages",
    "teach_habit": "teach/taught student {start} the habit {habit}",
    "train_first_stage": "train/trained the first stage of student {start}",
    "train_policy": "train/trained {method}",
    "train_teacher": "train/trained teacher {start}, seed {seed}",
    "tune_weight": "tune/tuned the weight of {method}",
    "write_cards": "write/wrote the model cards",
    "write_training_viewer": "write/wrote the page of training rollouts",
    "write_viewer": "write/wrote the page of answers",
}
"""Kind of job → what it does and, behind the stroke, what it has done; with the rule's wildcards."""


def kind_of(rule: str) -> str:
    """The rule's name without the seeds, starts or condition that it was made for: jobs of a kind take alike."""
    return re.sub(r"(_\d+)+$|(?<=^measure_condition)_.+", "", rule)


def in_words(rule: str, wildcards: Mapping[str, str], *, done: bool) -> str:
    """Say what a job has done, or what it does.

    Args:
        rule: its name in the workflow.
        wildcards: its wildcards.
        done: ``trained trm, seeds 0 and 1`` rather than ``train trm, seeds 0 and 1``.
    """
    kind = kind_of(rule)
    verbs, _, rest = PHRASES.get(kind, f"run/ran {rule}").partition(" ")
    now, _, past = verbs.partition("/")
    part = f", part {wildcards['part']}" if "part" in wildcards else ""
    return f"{past if done else now} {rest.format_map(wildcards)}{part}{_batch(rule.removeprefix(kind), kind)}"


def _batch(suffix: str, kind: str) -> str:
    if kind == "measure_condition":
        return f" ({suffix.removeprefix('_')})"
    numbers = suffix.split("_")[1:]
    if not numbers or kind not in ("train_policy", "evaluate_policy", "evaluate_policy_off_the_shelf"):
        return ""
    what = "start" if kind.endswith("off_the_shelf") else "seed"
    *first, last = numbers
    return f", {what}s {', '.join(first)} and {last}" if first else f", {what} {last}"


def rounded(seconds: float) -> tuple[str, str]:
    """Number and unit of a time as one says it: ``40 s``, ``18 min``, ``3.5 h``."""
    if seconds < 59.5:
        return f"{max(1, round(seconds))}", "s"
    if seconds < 99.5 * 60:
        return f"{round(seconds / 60)}", "min"
    return f"{seconds / 3600:.1f}".removesuffix(".0"), "h"


def in_time(seconds: float) -> str:
    """``18 min``."""
    return " ".join(rounded(seconds))


def times(so_far: float, left: float | None, whole: bool) -> str:
    """``18 min so far, about 9 left``.

    Args:
        so_far: seconds since the first job.
        left: seconds; None where nothing is known.
        whole: whether all jobs that are left are in it.
    """
    text = f"{in_time(so_far)} so far"
    if left is None:
        return text
    number, unit = rounded(left)
    shown = number if unit == rounded(so_far)[1] else f"{number} {unit}"
    return f"{text}, {'about' if whole else 'at least'} {shown} left"
