"""Timing of functions: alternating repetitions, summarised by median and quartiles."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypedDict


class Spread(TypedDict):
    """Median and quartiles of repeated timings, seconds."""

    median: float
    low: float
    high: float
    repeats: int


def spread(seconds: Sequence[float]) -> Spread:
    """Return median and quartiles of repeated timings, seconds."""
    low, _, high = statistics.quantiles(seconds, n=4) if len(seconds) > 1 else (seconds[0],) * 3
    return {"median": statistics.median(seconds), "low": low, "high": high, "repeats": len(seconds)}


def alternating(functions: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, Spread]:
    """Time functions in alternation, so that slow drifts of the machine affect all of them equally.

    Args:
        functions: name → function.
        repeats: rounds that count; one warm-up round precedes them.

    Returns:
        Name → timings.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for round_ in range(repeats + 1):
        for name, function in functions.items():
            started = time.perf_counter()
            function()
            if round_:
                seconds[name].append(time.perf_counter() - started)
    return {name: spread(values) for name, values in seconds.items()}
