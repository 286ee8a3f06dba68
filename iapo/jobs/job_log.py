"""What a job's log tells the person who waits for it: its warnings, its latest step, and why it failed.

A job prints into its log alone (:mod:`iapo.jobs.workflow_job`); the run reads the logs and says what matters.
"""

from __future__ import annotations

import logging
import re
import sys
from pathlib import Path

from iapo.artifacts.code_digest import PROJECT
from iapo.artifacts.progress import is_step_line
from iapo.jobs.room import room_text

_WARNING = "warning: "
_ERROR = "error: "
_OWN_ERROR = re.compile(rf"(?:\[rank\d+\]: )?(?:{'|'.join(PROJECT)})\.[\w.]+: ")
"""Last line of Python's report of an error of this project, as another process of the job prints it."""

_LAST_LINES = 20


class OwnWarnings(logging.Formatter):
    """A formatter that marks this project's warnings, which the run repeats, among those of libraries."""

    def format(self, record: logging.LogRecord) -> str:
        own = record.name.partition(".")[0] in PROJECT and record.levelno >= logging.WARNING
        return (_WARNING if own else "") + super().format(record)


def show_own_messages() -> None:
    """Print this project's messages from here on, its warnings marked, in a job or in a process that one starts.

    Libraries keep their levels.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OwnWarnings("%(message)s"))
    logging.basicConfig(handlers=[handler])
    logging.getLogger("iapo").setLevel(logging.INFO)


def error_text(error: BaseException) -> str | None:
    """Lines that say what is wrong, where this project raised the error to say it or too little room is the cause.

    Returns:
        None for a surprise.
    """
    own = type(error).__module__.partition(".")[0] in PROJECT
    text = str(error) if own else room_text(error)
    return None if text is None else "\n".join(f"{_ERROR}{line}" for line in text.splitlines())


class JobLog:
    """The log of a job that runs, read as it grows."""

    def __init__(self, path: Path, started: float) -> None:
        """
        Args:
            path: of the log; may not be there yet.
            started: seconds since the epoch; what the file held before is of an earlier run.
        """
        self.path, self._started = path, started
        self._read = 0
        self.step = ""
        """The latest line about a step; empty before the first, and behind the last of a part of the job."""

    def new_warnings(self) -> list[str]:
        """Read what was added, keep the latest step and return the warnings."""
        try:
            if self.path.stat().st_mtime < self._started:
                return []
            with self.path.open("rb") as file:
                file.seek(self._read)
                added = file.read()
        except OSError:
            return []
        # A line that is still being written is left for later.
        whole = added[: added.rfind(b"\n") + 1]
        self._read += len(whole)
        lines = re.split(r"[\r\n]", whole.decode(errors="replace"))
        self.step = next((line for line in reversed(lines) if is_step_line(line)), self.step)
        if ", 0 s left" in self.step:
            self.step = ""
        return [line.removeprefix(_WARNING) for line in lines if line.startswith(_WARNING)]


def why_failed(path: Path) -> list[str]:
    """Return what a job's log says of its failure: the project's own words, else its last lines."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return ["it left no log"]
    own = [line for line in lines if line.startswith(_ERROR) or _OWN_ERROR.match(line)]
    return list(dict.fromkeys(own)) or lines[-_LAST_LINES:] or ["its log is empty"]
