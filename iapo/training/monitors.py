"""Detectors of common training failures, computed from a run's metrics by pure functions without torch.

The most frequent failure of tool-use training is that tool calls drop to zero, and it is usually noticed only after the
run. So the same criteria are applied while a run trains (:class:`Monitor`) and to the results table (:func:`flags`).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, variance
from typing import TextIO

from iapo.config.schema import MonitorConfig

Row = Mapping[str, float]
"""Metrics of one step, by column of ``metrics.csv``; a metric that the step lacks is absent or NaN."""


OUTCOME = "rewards/outcome_reward/mean"
"""Metric with the step's mean outcome reward."""


_MIN_CALLS = 0.05
"""Call rate of the first window at or below which there is too little tool use to collapse."""


_STANDARD_ERRORS = 2.5
"""Number of standard errors by which two windows must differ. A run is checked after every step, so the usual 2 raises
too many false alarms: in simulated runs with a constant outcome, 2 flagged 12 to 19 % and 2.5 flagged 3 to 6 %, while
2.5 still detected 95 % of the drops by 0.2."""


_SOLVED = 0.9
"""Mean outcome above which groups of equal rewards are more likely solved questions than a fault."""


@dataclass(frozen=True)
class Flag:
    """One problem detected at one step."""

    name: str
    """Kind of problem, such as "tool use collapsed"; the same string at every step."""
    step: int
    """Last step of the window in which it was detected."""
    message: str
    """The metrics, the setting whose limit they exceed, and what to look at."""


def flags(rows: Sequence[Row], config: MonitorConfig) -> list[Flag]:
    """Return the problems at the end of a run, or of the part of it that is done.

    The detectors look at the last ``config.window`` steps; two of them compare these with the first ``config.window``
    steps. A detector is skipped if its columns are missing, or if there are too few steps: one window, or two for
    those that compare windows.

    Args:
        rows: metrics of each step, in order.
        config: window length and limits.

    Returns:
        At most one flag per kind, always in the same order.
    """
    if len(rows) < config.window:
        return []
    last = rows[-config.window :]
    found = {
        "completions truncated": _truncated(last, config),
        "verifier fails": _verifier_fails(last, config),
        "groups all equal": _flat_groups(last, config),
        "prompts not in the cache": _prompts_not_cached(last, config),
        "penalties not finite": _penalties_not_finite(last, config),
    }
    if len(rows) >= 2 * config.window:
        first = rows[: config.window]
        compared = {
            "tool use collapsed": _calls_collapsed(first, last, config),
            "reward without accuracy": _reward_without_accuracy(first, last, config),
        }
        found = compared | found
    step = int(rows[-1]["step"])
    return [Flag(name, step, message) for name, message in found.items() if message]


class Monitor:
    """Watcher of a run in progress, which prints one line when a flag appears and one when it clears.

    A flag clears once a whole window of steps has passed without it; otherwise a metric that hovers around its limit
    would fill the log.
    """

    def __init__(
        self, config: MonitorConfig, what: str, rows: Iterable[Row] = (), *, stream: TextIO | None = None
    ) -> None:
        """
        Args:
            config: window length and limits.
            what: name of the run, printed at the start of every line.
            rows: metrics of the steps before a resume; nothing is printed about them.
            stream: where to print; standard error by default.
        """
        self._config, self._what, self._stream = config, what, stream
        self._rows: list[Row] = []
        self._raised: dict[str, int] = {}
        """Kind of each active flag → number of rows when it was last raised."""
        for row in rows:
            self._add(row)

    def update(self, row: Row) -> None:
        """Add one step and print the flags that appeared or cleared.

        Args:
            row: metrics of the step.
        """
        for line in self._add(row):
            print(line, file=self._stream or sys.stderr, flush=True)

    def _add(self, row: Row) -> list[str]:
        """Add one step and return the lines about it."""
        self._rows.append(row)
        count = len(self._rows)
        current = {flag.name: flag for flag in flags(self._rows, self._config)}
        lines = [
            # What is warned of stands first, so that the run finds it in the job's log.
            f"warning: {self._what}: step {flag.step}: {name}: {flag.message}"
            for name, flag in current.items()
            if name not in self._raised
        ]
        self._raised |= dict.fromkeys(current, count)
        cleared = [name for name, latest in self._raised.items() if count - latest >= self._config.window]
        for name in cleared:
            del self._raised[name]
            lines.append(
                f"{self._what}: step {int(row['step'])}: no longer: {name} ({self._config.window} steps without it)"
            )
        return lines


def _calls_collapsed(first: Sequence[Row], last: Sequence[Row], config: MonitorConfig) -> str | None:
    before, after = _mean(first, "tools/call_rate"), _mean(last, "tools/call_rate")
    if before is None or after is None or before <= _MIN_CALLS or after >= config.min_calls * before:
        return None
    return (
        f"{_percent(after)} of rollouts call a tool, {_percent(before)} in the first {config.window} steps "
        f"(limit: monitors.min_calls {config.min_calls:g} of these). Is a failed or wrong call dearer than none? "
        "See tools/success_rate, the rewards/* columns and rollouts without a call"
    )


def _reward_without_accuracy(first: Sequence[Row], last: Sequence[Row], config: MonitorConfig) -> str | None:
    """Detect a reward that rose while the outcome fell, each by more than its noise.

    A step has few prompts, so its mean is noisy and a drop by ``outcome_drop`` alone is often chance. Noise from the
    choice of prompts moves both metrics the same way, so it cannot make one rise while the other falls. The other
    rewards also rise in healthy runs, so the fall of the outcome must itself be significant.
    """
    reward, outcome = _change(first, last, "reward"), _change(first, last, OUTCOME)
    if reward is None or outcome is None:
        return None
    rose = reward.delta > _STANDARD_ERRORS * reward.standard_error
    fell = -outcome.delta > max(config.outcome_drop, _STANDARD_ERRORS * outcome.standard_error)
    if not (rose and fell):
        return None
    return (
        f"the reward rose from {reward.before:.2f} to {reward.after:.2f} since the first {config.window} steps while "
        f"the outcome fell from {outcome.before:.2f} to {outcome.after:.2f} (limit: monitors.outcome_drop "
        f"{config.outcome_drop:g}). The policy earns another reward than the outcome: see advantage/*_share, lower "
        "that reward's weight and read rollouts that it pays for"
    )


def _truncated(last: Sequence[Row], config: MonitorConfig) -> str | None:
    ratio = _mean(last, "completions/clipped_ratio")
    if ratio is None or ratio <= config.max_truncated:
        return None
    return (
        f"{_percent(ratio)} of completions were cut off in the last {config.window} steps (limit: "
        f"monitors.max_truncated {config.max_truncated:g}). A cut rollout has no final answer: raise "
        "train.max_completion_length, or see whether rollouts repeat themselves"
    )


def _verifier_fails(last: Sequence[Row], config: MonitorConfig) -> str | None:
    # Each step is weighted by the number of tool uses that were judged in it.
    judged = [
        (row["verifier/failures"], row.get("verifier/asked", 1.0)) for row in _rows_with(last, "verifier/failures")
    ]
    asked = sum(weight for _, weight in judged)
    if not asked:
        return None
    failures = sum(share * weight for share, weight in judged) / asked
    if failures <= config.max_verifier_failures:
        return None
    return (
        f"{_percent(failures)} of tool uses got no verdict in the last {config.window} steps (limit: "
        f"monitors.max_verifier_failures {config.max_verifier_failures:g}). Their reward is their group's mean: is "
        "the server at verifier.base_url up, and does it reply with a verdict?"
    )


def _prompts_not_cached(last: Sequence[Row], config: MonitorConfig) -> str | None:
    missing = _mean(last, "cache/missing")
    if not missing:
        return None
    return (
        f"for {_percent(missing)} of calls in the last {config.window} steps the teacher's cache does not know the "
        "prompt (expected none), and they get no penalty. Was it built from the same data with the same processor?"
    )


def _penalties_not_finite(last: Sequence[Row], config: MonitorConfig) -> str | None:
    share = _mean(last, "alignment/non_finite")
    if not share:
        return None
    return (
        f"{_percent(share)} of penalties were not finite in the last {config.window} steps (expected none). Each is "
        "its group's mean: lower train.learning_rate, and look at the log for the block sums"
    )


def _flat_groups(last: Sequence[Row], config: MonitorConfig) -> str | None:
    flat = _mean(last, "advantage/flat_groups")
    if flat is None or flat <= config.max_flat_groups:
        return None
    outcome = _mean(last, OUTCOME)
    if outcome is None:
        reason = "The questions may be solved, or too hard; see the rewards/* columns"
    elif outcome > _SOLVED:
        reason = f"The outcome is {outcome:.2f}, so the training questions may simply be solved"
    else:
        reason = (
            f"The outcome is {outcome:.2f}, so they are not solved: see entropy, train.temperature and whether the "
            "questions are too hard"
        )
    return (
        f"in {_percent(flat)} of groups every rollout has the same reward in the last {config.window} steps (limit: "
        f"monitors.max_flat_groups {config.max_flat_groups:g}); nothing is learned from them. {reason}"
    )


@dataclass(frozen=True)
class _Change:
    """A metric's means over two windows, and the standard error of their difference."""

    before: float
    after: float
    standard_error: float

    @property
    def delta(self) -> float:
        return self.after - self.before


def _change(first: Sequence[Row], last: Sequence[Row], column: str) -> _Change | None:
    """Compare a metric over two windows; None if either has fewer than two values.

    Steps are treated as independent. A trend within a window inflates the error, which makes false alarms rarer.
    """
    windows = [[row[column] for row in _rows_with(rows, column)] for rows in (first, last)]
    if min(map(len, windows)) < 2:
        return None
    error = math.sqrt(sum(variance(values) / len(values) for values in windows))
    return _Change(fmean(windows[0]), fmean(windows[1]), error)


def _mean(rows: Sequence[Row], column: str) -> float | None:
    values = [row[column] for row in _rows_with(rows, column)]
    return fmean(values) if values else None


def _rows_with(rows: Sequence[Row], column: str) -> list[Row]:
    """Return the rows with a finite value in this column."""
    return [row for row in rows if math.isfinite(row.get(column, math.nan))]


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
