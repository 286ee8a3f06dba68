"""How everything here is timed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Spread = dict[str, float]


def spread(seconds: Sequence[float]) -> Spread:
    """Median and quartiles, seconds."""
    low, _, high = statistics.quantiles(seconds, n=4) if len(seconds) > 1 else (seconds[0],) * 3
    return {"median": statistics.median(seconds), "low": low, "high": high, "repeats": len(seconds)}


def alternating(functions: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, Spread]:
    """Name → seconds, each function once per round, after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for round_ in range(repeats + 1):
        for name, function in functions.items():
            started = time.perf_counter()
            function()
            if round_:
                seconds[name].append(time.perf_counter() - started)
    return {name: spread(values) for name, values in seconds.items()}
