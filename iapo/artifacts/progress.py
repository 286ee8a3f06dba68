"""Progress that a person can read: one short line now and then, with the time left."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TextIO


class Progress:
    """Counts steps and prints lines such as ``train iapo seed 1: step 12/60, 0.71 s each, 34 s left``.

    Lines rather than a bar, because steps run side by side under Snakemake and into log files.
    """

    def __init__(
        self,
        total: int,
        what: str,
        *,
        unit: str = "step",
        start: int = 0,
        may_end_early: bool = False,
        every_seconds: float = 10,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            total: steps in all.
            what: is being done; opens every line.
            unit: what a step is.
            start: steps that a resumed run has behind it.
            may_end_early: whether the total is the most that it can come to, and so the time left.
            every_seconds: between two lines.
            stream: where to print; standard error when absent.
            clock: seconds, for tests.
        """
        self._total, self._what, self._unit = total, what, unit
        self._done = self._start = start
        self._every = every_seconds
        self._bound = "at most " if may_end_early else ""
        self._stream = stream
        self._clock = clock

    def __enter__(self) -> Progress:
        self._began = self._printed = self._clock()
        if self._start:
            self._print(f"resumes at {self._unit} {self._start}/{self._total}")
        return self

    def update(self, steps: int, **figures: float) -> None:
        """Count steps; print when it is time, or when this was the last one."""
        self._done += steps
        now = self._clock()
        if now - self._printed < self._every and self._done < self._total:
            return
        self._printed = now
        each = (now - self._began) / max(1, self._done - self._start)
        left = each * (self._total - self._done)
        shown = "".join(f", {name} {value:.3g}" for name, value in figures.items())
        self._print(
            f"{self._unit} {self._done}/{self._total}, {each:.2g} s each, {self._bound}{duration(left)} left{shown}"
        )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            self._print(f"stopped at {self._unit} {self._done}/{self._total}")

    def _print(self, text: str) -> None:
        print(f"{self._what}: {text}", file=self._stream or sys.stderr, flush=True)


_STEP = re.compile(r".+: \w+ \d+/\d+, \S+ s each, .+ left")


def is_step_line(line: str) -> bool:
    """Whether a line of a log is a :class:`Progress`'s."""
    return _STEP.match(line) is not None


def duration(seconds: float) -> str:
    """``95`` → ``1 min 35 s``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
