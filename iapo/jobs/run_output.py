"""What a run prints: a line at its start, a line a job, now and then a step of a long one, warnings, and how it ended.

Snakemake's own account, with every rule's files and reasons, is in its log below ``.snakemake/log``. Dry runs and
``--verbose`` print it as ever.
"""

from __future__ import annotations

import logging
import re
import sys
import textwrap
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from logging import ERROR, WARNING, LogRecord
from pathlib import Path
from typing import Any

from snakemake.logging import ColorizingTextHandler, DefaultFormatter
from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

from iapo.jobs.job_log import JobLog, why_failed
from iapo.jobs.preflight import PreflightError
from iapo.jobs.run_lines import in_time, in_words, kind_of, times
from iapo.jobs.time_left import Pace, earlier_pace, mean_seconds, seconds_left

_FIRST_STEP_LINE = 60.0
"""Seconds after which a job's step is shown; then after twice as many, and so on."""
_SHOWN_AGAIN = 10
"""Warnings that are shown again at the end."""
_WIDTH = 100
_NUMBER = re.compile(r"\d+(\.\d+)?")
_REPEATS = ("Exiting because a job execution failed", "At least one job did not complete successfully")
"""Snakemake's words at the end of a run that did not end well."""


@dataclass
class _RunningJob:
    rule: str
    wildcards: Mapping[str, str]
    began: float
    log: JobLog
    next_step_line: float = _FIRST_STEP_LINE


class RunOutput:
    """The state of a run, and the lines that say so; each method returns those that its event adds."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        """
        Args:
            clock: seconds since the epoch, for tests.
        """
        self._clock = clock
        self._left: Counter[str] = Counter()
        self._total = 0
        self._began: float | None = None
        self._running: dict[int, _RunningJob] = {}
        self._ended: list[tuple[str, float]] = []
        self._earlier = Pace()
        self._warnings: dict[str, str] = {}
        self._times_warned: Counter[str] = Counter()
        self.failed = 0
        self.interrupted = False
        """Whether a person ended the run."""
        self._killed = False
        self.snakemake_log = ""

    def planned(self, jobs: Mapping[str, int]) -> None:
        """Take the number of jobs of each rule, and of all as ``total``."""
        for rule, count in jobs.items():
            if rule != "total":
                self._left[kind_of(rule)] += count
        self._total = sum(self._left.values())

    def started(self, job: int, rule: str, wildcards: Mapping[str, str], log: Path) -> list[str]:
        """Say before the first job how many there are, and how long they take where earlier runs know it."""
        now = self._clock()
        lines = []
        if self._began is None:
            self._began = now
            self._earlier = earlier_pace(_results(log))
            seconds, whole = seconds_left(self._left, [], self._earlier)
            about = f", {'about' if whole else 'at least'} {in_time(seconds)} by earlier runs" if seconds else ""
            lines = [f"{_jobs(self._total)}{about}; each one's own output is in {_results(log)}/logs"]
        self._running[job] = _RunningJob(rule, wildcards, now, JobLog(log, now))
        return lines

    def finished(self, job: int) -> list[str]:
        """Say what a job has done, and how long the others take."""
        ended = self._running.pop(job, None)
        if ended is None:
            return []
        lines = self.warned(ended.log.new_warnings())
        now = self._clock()
        self._left[kind_of(ended.rule)] -= 1
        self._ended.append((kind_of(ended.rule), now - ended.began))
        what = in_words(ended.rule, ended.wildcards, done=True)
        return [*lines, f"[{len(self._ended)}/{self._total}] {what} · {self._times(now)}"]

    def job_failed(self, job: int, rule: str, log: Path) -> list[str]:
        """Say that a job failed, why, and where the rest is."""
        ended = self._running.pop(job, None)
        if self._killed:
            return []
        self.failed += 1
        lines = self.warned(ended.log.new_warnings()) if ended else []
        what = in_words(rule, ended.wildcards, done=False) if ended else rule
        said = textwrap.indent("\n".join(why_failed(log)), "    ")
        return [*lines, f"failed to {what}:", said, f"    (the whole log: {log})"]

    def stopping(self, *, at_once: bool) -> list[str]:
        """Say that a person ended the run, and what becomes of the jobs that run.

        Args:
            at_once: they are ended too, which is no failure of theirs.
        """
        if self.interrupted and self._killed >= at_once:
            return []
        self.interrupted, self._killed = True, at_once
        return ["Interrupted: ends the jobs that run." if at_once else "Interrupted: waits for the jobs that run."]

    def repeated(self, text: str) -> bool:
        """Whether an error of Snakemake's repeats what was said of a job, or of how the run ends."""
        if "CalledProcessError" in text:
            return self._killed or "exit status 1." in text or "exit status 130." in text
        return bool(self.failed or self.interrupted) and any(each in text for each in _REPEATS)

    def warned(self, warnings: list[str]) -> list[str]:
        """Say each warning once, though jobs give it with other numbers."""
        lines = []
        for text in warnings:
            kind = _NUMBER.sub("0", text)
            self._times_warned[kind] += 1
            if kind not in self._warnings:
                self._warnings[kind] = text
                lines.append(f"warning: {text}")
        return lines

    def looked(self) -> list[str]:
        """Say what is new in the logs of the jobs that run: warnings, and of long ones the step."""
        lines = []
        for job in list(self._running.values()):
            lines += self.warned(job.log.new_warnings())
            so_far = self._clock() - job.began
            if so_far >= job.next_step_line and job.log.step:
                job.next_step_line = 2 * so_far
                lines.append(f"    {job.log.step}")
        return lines

    def closed(self) -> list[str]:
        """Say how the run ended, and what was warned of."""
        if self._began is None:
            return []
        after, done = in_time(self._clock() - self._began), len(self._ended)
        if self._warnings:
            shown = [self._warned_again(kind) for kind in list(self._warnings)[:_SHOWN_AGAIN]]
            more = len(self._warnings) - len(shown)
            lines = ["Warned of:", *(f"- {text}" for text in shown), *([f"- and {more} more, above"] if more else [])]
        else:
            lines = []
        if done == self._total and not self.failed:
            return [*lines, f"Done: {_jobs(done)} in {after}."]
        how = "Interrupted" if self.interrupted else "Stopped"
        failed = f" and {self.failed} failed" if self.failed else ""
        again = "The same command goes on from there" + (", once the cause is mended." if self.failed else ".")
        own = [f"Snakemake's own log: {self.snakemake_log}"] if self.snakemake_log else []
        return [*own, *lines, f"{how} after {after}: {done} of {_jobs(self._total)} done{failed}. {again}"]

    def _warned_again(self, kind: str) -> str:
        """A warning on one line, and how often it was given."""
        count = self._times_warned[kind]
        often = f" ({count} times)" if count > 1 else ""
        return textwrap.shorten(self._warnings[kind], _WIDTH - len(often), placeholder=" …") + often

    def _times(self, now: float) -> str:
        """Time so far and left; jobs of this run count before those of earlier ones."""
        began = now if self._began is None else self._began
        running = [(kind_of(job.rule), now - job.began) for job in self._running.values()]
        if not self._left.total():
            return in_time(now - began)
        at_once = sum(seconds for _, seconds in [*self._ended, *running]) / max(1.0, now - began)
        pace = Pace(dict(self._earlier.seconds) | mean_seconds(self._ended), at_once)
        return times(now - began, *seconds_left(self._left, running, pace))


def own_words(text: str) -> list[str]:
    """What a check before the first job found, without the places in the code that Snakemake puts around it."""
    _, *lines = text.splitlines()
    return [f"error: {line}" for line in lines if not line.startswith('  File "')]


def _jobs(count: int) -> str:
    return f"{count} job" if count == 1 else f"{count} jobs"


def _results(log: Path) -> Path:
    """Folder of the profile's results, by a job's log."""
    return next((folder.parent for folder in log.parents if folder.name == "logs"), log.parent)


class LogHandler(LogHandlerBase):
    """Snakemake's logger ``iapo``."""

    writes_to_stream = True
    writes_to_file = False
    has_filter = False
    has_formatter = False
    needs_rulegraph = False

    def __post_init__(self) -> None:
        settings = self.common_settings
        own = DefaultFormatter(settings.quiet, settings.show_failed_logs)
        self._snakemake = ColorizingTextHandler(
            settings.nocolor, stream=sys.stdout if settings.stdout else sys.stderr, formatter=own
        )
        # Before jobs, and where a person asked for it, Snakemake speaks for itself.
        self._as_ever = settings.dryrun or settings.verbose or settings.debug_dag or settings.printshellcmds
        self._run: RunOutput | None = None
        self._printing = threading.Lock()
        self._over = threading.Event()

    def emit(self, record: LogRecord) -> None:
        """Print what a message of Snakemake's means for the run."""
        try:
            self._emit(record)
        except Exception:
            # As Python's own handlers: an error here would end the thread that all later messages come through.
            self.handleError(record)

    def _emit(self, record: LogRecord) -> None:
        event = getattr(record, "event", None)
        if event == LogEvent.WORKFLOW_STARTED and not self._as_ever:
            self._run = RunOutput()
            # A full disk takes no lines for Snakemake's own log; a page of Python's calls for each helps nobody.
            logging.raiseExceptions = False
            threading.Thread(target=self._look, daemon=True).start()
        elif self._run is None:
            if self._as_ever or not str(record.msg).startswith(_SAYS_NOTHING):
                self._snakemake.emit(record)
        else:
            with self._printing:
                self._say(self._lines(self._run, event, record))

    def handleError(self, record: LogRecord) -> None:
        """Print an error of this logger's own, which no other says."""
        traceback.print_exc()

    def close(self) -> None:
        """Print how the run ended."""
        if self._run is not None and not self._over.is_set():
            self._over.set()
            with self._printing:
                self._say(self._run.closed())
        super().close()

    def _lines(self, run: RunOutput, event: LogEvent | None, record: LogRecord) -> list[str]:
        fields: Any = record
        if event == LogEvent.RUN_INFO:
            run.planned(fields.stats)
        elif event == LogEvent.JOB_INFO:
            return run.started(fields.jobid, fields.rule_name, fields.wildcards, _log_of(record))
        elif event == LogEvent.JOB_FINISHED:
            return run.finished(fields.job_id)
        elif event == LogEvent.JOB_ERROR:
            return run.job_failed(fields.jobid, fields.rule_name, _log_of(record))
        elif getattr(record, "exception", None) == PreflightError.__name__:
            return own_words(str(record.msg))
        elif record.levelno >= ERROR:
            if not run.repeated(str(record.msg)):
                self._snakemake.emit(record)
        elif record.levelno >= WARNING:
            return run.warned([str(record.msg)])
        elif event is None and str(record.msg).startswith((*_ENDS_AT_ONCE, _ENDS_LATER)):
            return run.stopping(at_once=not str(record.msg).startswith(_ENDS_LATER))
        elif event is None and str(record.msg).startswith(_KEPT):
            run.snakemake_log = str(record.msg).removeprefix(_KEPT)
        elif event is None and (str(record.msg).startswith(_SAID) or "snakemake_executor_plugin" in record.pathname):
            return [str(record.msg)]
        return []

    def _look(self) -> None:
        while not self._over.wait(5) and self._run is not None:
            with self._printing:
                self._say(self._run.looked())

    def _say(self, lines: list[str]) -> None:
        if lines:
            print(*lines, sep="\n", file=sys.stderr, flush=True)


_SAYS_NOTHING = ("Assuming unrestricted shared filesystem usage", "Config file ", "host: ")
"""Snakemake's words before a run, of what is always so."""
_SAID = ("Nothing to be done", "Trying to restart job")
"""Snakemake's words during a run that a person needs."""
_KEPT = "Complete log(s): "
"""Snakemake's words for where its own log is."""
_ENDS_AT_ONCE = ("Terminating processes on user request", "Cancelling snakemake on user request")
_ENDS_LATER = "Will exit after finishing"
"""Snakemake's words when it is interrupted."""


def _log_of(record: LogRecord) -> Path:
    # Each of our rules has one; `all` has not, and prints nothing.
    return Path(next(iter(getattr(record, "log", None) or ()), "results/logs/none.log"))
