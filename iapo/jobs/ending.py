"""How a run and its jobs end before their time: by SIGTERM or SIGINT, or because what started a job is gone. No torch.

A job that is asked to end does so at once, or within :data:`GRACE` at the end of a step where it trains. Whoever
starts it hands the wish on and waits; a job whose starter was killed ends by itself.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import psutil

from iapo.jobs.job_log import error_text

GRACE = 20.0
"""Seconds in which a step may end and be saved. Slurm and most others kill what is left after 30."""

_STARTER = "IAPO_STARTER"
"""Environment variable that tells a job which process it must not outlive."""
_SAME_WISH = 1.0
"""Seconds in which a second signal says nothing new: a terminal and the run both send theirs."""
_LOOK = 0.5
"""Seconds between two looks at other processes."""


class _Wish:
    """Whether this process was asked to end, and whether it may first end a step."""

    asked: float | None = None
    """When, by the monotonic clock."""
    in_steps = False

    def take(self, _number: int, _frame: FrameType | None) -> None:
        """Handle a signal; a second one, later, waits for no step."""
        now = time.monotonic()
        if self.asked is not None and now - self.asked < _SAME_WISH:
            return
        first, self.asked = self.asked is None, now
        if not self.in_steps:
            raise KeyboardInterrupt
        if not first:
            raise KeyboardInterrupt(f"before its step ended, within {GRACE:g} s or at a second signal")
        timer = threading.Timer(GRACE, os.kill, (os.getpid(), signal.SIGTERM))
        timer.daemon = True
        timer.start()


_wish = _Wish()


def end_when_asked(without_starter: signal.Signals = signal.SIGTERM) -> None:
    """Let SIGTERM and SIGINT end this process as an interrupt.

    Args:
        without_starter: what it gets when the process that started it is gone.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _wish.take)
    starter = os.environ.get(_STARTER)
    if starter:
        _in_background(lambda: _end_after(int(starter), without_starter))


def _end_after(starter: int, number: signal.Signals) -> None:
    while _lives(starter):
        time.sleep(_LOOK)
    os.kill(os.getpid(), number)
    # What computes outside of Python hears of no signal.
    time.sleep(GRACE + 2 * _SAME_WISH)
    os.kill(os.getpid(), signal.SIGKILL)


def _lives(process: int) -> bool:
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Steps:
    """Steps of a training, each of which may end before this process does."""

    saved = 0
    """The step that was saved to be the last for now; 0 where there is none."""

    @property
    def are_to_end(self) -> bool:
        """Whether this process was asked to end."""
        return _wish.asked is not None


@contextmanager
def steps() -> Iterator[Steps]:
    """A stretch in which a signal waits for the end of a step.

    Raises:
        KeyboardInterrupt: at its end, where there was a signal here or in another process of the training.
    """
    taken = Steps()
    _wish.in_steps = True
    try:
        yield taken
    finally:
        _wish.in_steps = False
    if taken.saved or taken.are_to_end:
        step = f"step {taken.saved}" if taken.saved else "the last step"
        raise KeyboardInterrupt(f"after {step}, which is saved; the same command goes on from there")


def interrupted_line(interrupt: KeyboardInterrupt) -> str:
    """The one line that a job's log has of its interrupt."""
    return f"interrupted {interrupt}".rstrip()


@contextmanager
def exit_when_asked() -> Iterator[None]:
    """Around a process that a job starts: an interrupt is one line and status 130, and so is a known error."""
    # At once: the lock of the folder that it writes to was its starter's, and the next run may hold it.
    end_when_asked(without_starter=signal.SIGKILL)
    try:
        yield
    except KeyboardInterrupt as interrupt:
        print(interrupted_line(interrupt), file=sys.stderr)
        raise SystemExit(130) from None
    except Exception as error:
        known = error_text(error)
        if known is None:
            raise
        print(known, file=sys.stderr)
        raise SystemExit(1) from error


def starter_environment() -> dict[str, str]:
    """The environment of a process that must not outlive this one."""
    return {**os.environ, _STARTER: str(os.getpid())}


def hand_on_interrupts() -> None:
    """Let SIGTERM and SIGINT to a run end its jobs too, each in its grace, and then the run.

    Snakemake waits for its jobs to be done, at SIGTERM for hours, and hands on neither.
    """

    def end(_number: int, _frame: FrameType | None) -> None:
        _in_background(_end_children)
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)


def silent_imports() -> str:
    """What Snakemake puts before each job's command: its own, and that SIGINT is not heard before a job handles it.

    Python would print where in its imports it was. The run's SIGTERM ends a job then, at once.
    """
    return "set -euo pipefail; trap '' INT; "


def name_as_starter() -> None:
    """Let the jobs that this process starts end when it is gone."""
    os.environ[_STARTER] = str(os.getpid())


def _end_children() -> None:
    """Ask each child once, and those that were still being started then."""
    asked: set[int] = set()
    while True:
        for child in psutil.Process().children():
            if child.pid not in asked:
                asked.add(child.pid)
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.terminate()
        time.sleep(_LOOK)


@contextmanager
def in_its_grace(process: subprocess.Popen[str]) -> Iterator[None]:
    """Ask a process to end, and kill it with all that it started where it lives on after its grace.

    The block waits for its end, and reads what it still prints.
    """
    process.terminate()
    patience = threading.Timer(GRACE + 2 * _SAME_WISH, _kill_tree, (process.pid,))
    patience.daemon = True
    patience.start()
    try:
        yield
    finally:
        patience.cancel()


def _kill_tree(process: int) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(process)
        for each in [*root.children(recursive=True), root]:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()


def _in_background(work: Callable[[], None]) -> None:
    threading.Thread(target=work, daemon=True).start()
