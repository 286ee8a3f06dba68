"""What is going wrong in a training run, told from its metrics: pure functions over rows, without torch.

Users of such trainers ask most often why tool calls fell to zero, and notice it after the run; so the same
criteria speak while a run trains (:class:`Monitor`) and in the table afterwards (:func:`flags`).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, variance
from typing import TextIO

from iapo.config import MonitorConfig

Row = Mapping[str, float]
"""One step's figures, by column of ``metrics.csv``; a figure that the step lacks is absent or NaN."""

OUTCOME = "rewards/outcome_reward/mean"
_FEWEST_CALLS = 0.05
"""Call rate of the first window up to which there is no tool use that could collapse."""
_STANDARD_ERRORS = 2.5
"""By how many standard errors two windows must differ. A run is looked at after every step, so the usual 2 are too
few: with mini's noise, an outcome that stays level beside a growing other reward was flagged at some step in 52 to
58 % of 300 simulated runs of 60 steps without this criterion, in 12 to 19 % with 2 and in 3 to 6 % with 2.5; a loss
of .2 was found in 95 % with 2.5."""
_SOLVED = 0.9
"""Outcome above which equal groups more likely mean solved questions than a fault."""


@dataclass(frozen=True)
class Flag:
    """Something that goes wrong at a step."""

    name: str
    """The kind, such as "tool use collapsed"; the same at every step."""
    step: int
    """Last step that was looked at."""
    message: str
    """The figures, the setting that they exceed, and what to look at."""


def flags(rows: Sequence[Row], config: MonitorConfig) -> list[Flag]:
    """What is wrong at the end of a run, or so far.

    The last ``config.window`` steps are judged, for two of the kinds against the first ones. What lacks its
    columns or has fewer steps than it needs is not judged: one window, or two where windows are compared.

    Args:
        rows: one a step, in order.
        config: windows and limits.

    Returns:
        At most one flag a kind, always in the same order.
    """
    if len(rows) < config.window:
        return []
    last = rows[-config.window :]
    found = {
        "completions truncated": _truncated(last, config),
        "verifier fails": _verifier_fails(last, config),
        "groups all equal": _flat_groups(last, config),
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
    """Watches a run while it trains: one line when a kind of flag appears, one when it is gone.

    A flag counts as gone once a whole window of steps has passed without it; one that hovers at its limit would
    fill the log otherwise.
    """

    def __init__(
        self, config: MonitorConfig, what: str, rows: Iterable[Row] = (), *, stream: TextIO | None = None
    ) -> None:
        """
        Args:
            config: windows and limits.
            what: is being trained; opens every line.
            rows: of the steps that a resumed run has behind it; nothing is printed about them.
            stream: where to print; standard error when absent.
        """
        self._config, self._what, self._stream = config, what, stream
        self._rows: list[Row] = []
        self._raised: dict[str, int] = {}
        """Kind → rows at its latest flag, while it is not gone."""
        for row in rows:
            self._look(row)

    def update(self, row: Row) -> None:
        """Look at the run after one more step; print what changed.

        Args:
            row: the step's figures.
        """
        for line in self._look(row):
            print(f"{self._what}: {line}", file=self._stream or sys.stderr, flush=True)

    def _look(self, row: Row) -> list[str]:
        self._rows.append(row)
        count = len(self._rows)
        now = {flag.name: flag for flag in flags(self._rows, self._config)}
        lines = [
            f"warning: step {flag.step}: {name}: {flag.message}"
            for name, flag in now.items()
            if name not in self._raised
        ]
        self._raised |= dict.fromkeys(now, count)
        gone = [name for name, latest in self._raised.items() if count - latest >= self._config.window]
        for name in gone:
            del self._raised[name]
            lines.append(f"step {int(row['step'])}: no longer: {name} ({self._config.window} steps without it)")
        return lines


def _calls_collapsed(first: Sequence[Row], last: Sequence[Row], config: MonitorConfig) -> str | None:
    before, after = _mean(first, "tools/call_rate"), _mean(last, "tools/call_rate")
    if before is None or after is None or before <= _FEWEST_CALLS or after >= config.least_calls * before:
        return None
    return (
        f"{_percent(after)} of rollouts call a tool, {_percent(before)} in the first {config.window} steps "
        f"(limit: monitors.least_calls {config.least_calls:g} of these). Is a failed or wrong call dearer than none? "
        "See tools/success_rate, the rewards/* columns and rollouts without a call"
    )


def _reward_without_accuracy(first: Sequence[Row], last: Sequence[Row], config: MonitorConfig) -> str | None:
    """The reward rose and the outcome fell, each by more than its noise.

    A step's mean varies with its few prompts (on mini by .1), a window's by .03 and two windows' difference by
    .045: a drop of ``outcome_drop`` alone is often chance. Prompt noise moves both figures the same way, so it
    cannot make one rise and the other fall; the other rewards rise in healthy runs too, so the outcome's own fall
    must be beyond chance.
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
    if ratio is None or ratio <= config.most_truncated:
        return None
    return (
        f"{_percent(ratio)} of completions were cut off in the last {config.window} steps (limit: "
        f"monitors.most_truncated {config.most_truncated:g}). A cut rollout has no final answer: raise "
        "train.max_completion_length, or see whether rollouts repeat themselves"
    )


def _verifier_fails(last: Sequence[Row], config: MonitorConfig) -> str | None:
    # A step in which one tool use was judged says less than one in which fifty were.
    judged = [(row["verifier/failures"], row.get("verifier/asked", 1.0)) for row in _with(last, "verifier/failures")]
    asked = sum(weight for _, weight in judged)
    if not asked:
        return None
    failures = sum(share * weight for share, weight in judged) / asked
    if failures <= config.most_verifier_failures:
        return None
    return (
        f"{_percent(failures)} of tool uses got no verdict in the last {config.window} steps (limit: "
        f"monitors.most_verifier_failures {config.most_verifier_failures:g}). Their reward is their group's mean: is "
        "the server at verifier.base_url up, and does it reply with a verdict?"
    )


def _flat_groups(last: Sequence[Row], config: MonitorConfig) -> str | None:
    flat = _mean(last, "advantage/flat_groups")
    if flat is None or flat <= config.most_flat_groups:
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
        f"monitors.most_flat_groups {config.most_flat_groups:g}); nothing is learned from them. {reason}"
    )


@dataclass(frozen=True)
class _Change:
    """A column's means over two windows and the standard error of their difference."""

    before: float
    after: float
    standard_error: float

    @property
    def delta(self) -> float:
        return self.after - self.before


def _change(first: Sequence[Row], last: Sequence[Row], column: str) -> _Change | None:
    """Steps count as independent; a trend inside a window widens the error, which errs towards silence."""
    windows = [[row[column] for row in _with(rows, column)] for rows in (first, last)]
    if min(map(len, windows)) < 2:
        return None
    error = math.sqrt(sum(variance(values) / len(values) for values in windows))
    return _Change(fmean(windows[0]), fmean(windows[1]), error)


def _mean(rows: Sequence[Row], column: str) -> float | None:
    values = [row[column] for row in _with(rows, column)]
    return fmean(values) if values else None


def _with(rows: Sequence[Row], column: str) -> list[Row]:
    """The rows that have a figure in this column."""
    return [row for row in rows if math.isfinite(row.get(column, math.nan))]


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
