"""How long a run still takes: from the jobs that ended in it, and before these from the run records of earlier ones."""

from __future__ import annotations

import contextlib
import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from statistics import fmean

from iapo.artifacts.run_record import records_below
from iapo.jobs.run_lines import kind_of


@dataclass(frozen=True)
class Pace:
    """How long jobs take."""

    seconds: Mapping[str, float] = field(default_factory=dict)
    """Kind of job → mean seconds of one."""
    side_by_side: float = 1.0
    """Jobs that ran at once, on average while any did."""


def seconds_left(
    left: Mapping[str, int], running: Iterable[tuple[str, float]], pace: Pace
) -> tuple[float | None, bool]:
    """Estimate the time until all jobs have ended.

    Args:
        left: kind → jobs that have not ended, those that run among them.
        running: kind and seconds so far of each job that runs.
        pace: how long a job takes, and how many run at once.

    Returns:
        Seconds, or None where no kind that is left was measured; and whether all were.
    """
    rests = [(kind, max(0.0, pace.seconds.get(kind, 0.0) - so_far)) for kind, so_far in running]
    waiting = Counter(left)
    waiting.subtract(kind for kind, _ in rests)
    rests += [(kind, pace.seconds.get(kind, 0.0)) for kind, count in waiting.items() for _ in range(count)]
    known = [rest for kind, rest in rests if kind in pace.seconds]
    if not known:
        return None, False
    # A single job does not end sooner for cores that are free.
    at_once = max(1.0, min(pace.side_by_side, len(rests)))
    return max(sum(known) / at_once, *known), len(known) == len(rests)


def earlier_pace(results: Path) -> Pace:
    """How long the jobs took that made what a folder of results holds; empty where it holds no run records."""
    jobs: dict[tuple[str, ...], tuple[str, float]] = {}
    spans = []
    for path in records_below(results):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            record = json.loads(path.read_text())
            seconds, plan = float(record["wall_seconds"]), record["plan"]
            start = datetime.fromisoformat(record["started"]).timestamp()
            outputs = tuple(plan["outputs"])
            # A job that makes several things leaves a record of each, with the time since the one before.
            jobs[outputs] = kind_of(plan["rule"]), seconds + jobs.get(outputs, ("", 0.0))[1]
            spans.append((start, start + seconds))
    return Pace(mean_seconds(jobs.values()), _side_by_side(spans))


def mean_seconds(jobs: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Mean seconds of each kind of job."""
    found: dict[str, list[float]] = defaultdict(list)
    for kind, seconds in jobs:
        found[kind].append(seconds)
    return {kind: fmean(values) for kind, values in found.items()}


def _side_by_side(spans: Collection[tuple[float, float]]) -> float:
    """Jobs at once, over the time in which there were any."""
    covered, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        covered += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return sum(end - start for start, end in spans) / covered if covered else 1.0
