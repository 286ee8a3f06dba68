"""Seeded random kills at every stage, each followed by the same command."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress

import psutil

from tests.faults.clone import STAGES, Clone, Disk, Footprint, Run, Stage
from tests.faults.verdict import Verdict, of_full_disk, of_kill

KINDS = ("kill the group", "kill a job", "kill the run", "TERM to the run", "INT to the run", "TERM to a job")
FULL = "disk full"
_LATEST = 6.0
"""Seconds after which a job that was found is disturbed, at most: the jobs of the small run take 10 to 30."""


def plan(rng: random.Random, each: int, *, disk: bool) -> list[tuple[Stage, list[str]]]:
    """Faults of every stage in random order: each kind about as often as any other, and the disk full once.

    Args:
        rng: of the order.
        each: kills of a stage.
        disk: whether there is a disk that can be filled.
    """
    planned = []
    for number, stage in enumerate(STAGES):
        kinds = [KINDS[(number + index) % len(KINDS)] for index in range(each)] + [FULL] * disk
        rng.shuffle(kinds)
        planned.append((stage, kinds))
    return planned


def disturb(
    clone: Clone,
    room: Disk | None,
    rng: random.Random,
    planned: Sequence[tuple[Stage, list[str]]],
    footprints: list[Footprint],
) -> Iterator[Verdict]:
    """Start the run again and again, and disturb it where the plan says.

    Args:
        clone: whose run it is.
        room: its own disk.
        rng: of the moments and the jobs.
        planned: the faults of every stage.
        footprints: gets each run's, as it was before its fault.
    """
    for stage, kinds in planned:
        for kind in kinds:
            run = clone.start()
            if not run.wait_for(stage):
                if refused(run):
                    yield Verdict(kind, "a stuck lock")
                run = start_again(clone, stage)
            time.sleep(rng.uniform(0, _LATEST))
            footprints += filter(None, [run.footprint()])
            verdict = _full(run, room) if kind == FULL and room else _killed(run, kind, clone, rng)
            yield Verdict(f"{verdict.kind} ({stage.name})" if verdict.lost else verdict.kind, verdict.lost, verdict.how)


def start_again(clone: Clone, stage: Stage) -> Run:
    """Start the run at a stage that is done; return once a job of it runs.

    What later stages made goes too: nothing is made again that only finished files were made of.

    Raises:
        AssertionError: if the run ends without a job of the stage.
    """
    clone.forget(*(each.made for each in STAGES[STAGES.index(stage) :]))
    run = clone.start()
    assert run.wait_for(stage), f"{stage.name} was to run again:\n{run.printed()}"
    return run


def _full(run: Run, room: Disk | None) -> Verdict:
    assert room
    room.fill()
    try:
        return of_full_disk(status=run.ended(), printed=run.printed())
    finally:
        room.grow()


def _killed(run: Run, kind: str, clone: Clone, rng: random.Random) -> Verdict:
    strike(run, kind, rng)
    run.ended()
    return of_kill(kind, orphans=len(clone.orphans()), printed=run.printed(), refused=refused(run))


def strike(run: Run, kind: str, rng: random.Random) -> None:
    """Do what the kind says; what has ended by itself is left."""
    with suppress(ProcessLookupError, psutil.NoSuchProcess, IndexError):
        if kind == "kill the group":
            os.killpg(run.process.pid, signal.SIGKILL)
        elif kind == "kill the run":
            run.process.kill()
        elif kind == "TERM to the run":
            run.process.terminate()
        elif kind == "INT to the run":
            run.process.send_signal(signal.SIGINT)
        else:
            job = rng.choice(sorted(run.jobs(), key=lambda each: each.pid))
            job.kill() if kind == "kill a job" else job.terminate()


def refused(run: Run) -> bool:
    """Whether a run found another's lock."""
    return "is in use by another run" in run.printed()
