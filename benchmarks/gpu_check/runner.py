"""Running checks, each in a process of its own with a time limit, and the lines that are written as each ends."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_GRACE = 10.0
"""Seconds from asking a process to end to ending it."""


@dataclass(frozen=True)
class Job:
    """A check as a process."""

    name: str
    command: tuple[str, ...]
    result: Path
    """File that it writes its outcome to, as JSON."""
    seconds: float
    """Time limit."""


def run_all(jobs: Sequence[Job], lines: Path, identity: str) -> list[dict[str, Any]]:
    """Run the jobs in order and append a line as each ends; those that passed in an earlier call are not repeated.

    Args:
        jobs: in order.
        lines: file of JSON lines, one an outcome.
        identity: of versions and code: only lines of the same one count.

    Returns:
        The outcome of every job: ``check``, ``status`` (passed, failed, skipped, timed out), ``seconds``, ``identity``,
        and what the job wrote.
    """
    done = {row["check"]: row for row in read_lines(lines) if row["identity"] == identity and row["status"] == "passed"}
    found = []
    for job in jobs:
        if job.name not in done:
            row = {**run(job), "identity": identity}
            _append(lines, row)
            print(json.dumps(row), flush=True)
            done[job.name] = row
        found.append(done[job.name])
    return found


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the outcomes in a file, none where there is no file; a line that a kill has cut short is left out."""
    found: list[dict[str, Any]] = []
    for line in path.read_text().splitlines() if path.exists() else ():
        with suppress(ValueError):
            found.append(json.loads(line))
    return found


def _append(path: Path, row: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # A line of its own also behind one that a kill has cut short.
    begun = path.exists() and not path.read_text().endswith("\n")
    with path.open("a") as file:
        file.write("\n" * begun + json.dumps(row) + "\n")


def run(job: Job) -> dict[str, Any]:
    """Run one job, end it and what it has started at its limit, and return its outcome."""
    job.result.parent.mkdir(parents=True, exist_ok=True)
    job.result.unlink(missing_ok=True)
    log = job.result.with_suffix(".log")
    started = time.perf_counter()
    with log.open("w") as output:
        process = subprocess.Popen(
            job.command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            status = process.wait(job.seconds)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            _end_group(process)
    row: dict[str, Any] = {"check": job.name, "status": "timed out", "seconds": round(time.perf_counter() - started, 1)}
    if status is None:
        return {**row, "reason": f"took more than {job.seconds:g} s; its log ends with: {_tail(log)}"}
    if not job.result.exists():
        reason = f"ended with status {status} and wrote no result; its log ends with: {_tail(log)}"
        return {**row, "status": "failed", "reason": reason}
    return {**row, **json.loads(job.result.read_text())}


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Ask a process and all of its group to end, and end what has not after a while."""
    for asked, patience in ((signal.SIGTERM, _GRACE), (signal.SIGKILL, _GRACE)):
        try:
            os.killpg(process.pid, asked)
        except ProcessLookupError:
            return
        until = time.monotonic() + patience
        while time.monotonic() < until:
            # Reaps the leader; the group is gone when none of its other processes is left.
            process.poll()
            try:
                os.killpg(process.pid, 0)
            except ProcessLookupError:
                return
            time.sleep(0.05)


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-600:].strip()


def identity_of(versions: dict[str, str], scale: str, card: str) -> str:
    """Return a digest of the card, the versions and all code that a check may run."""
    digest = hashlib.sha256(json.dumps([versions, scale, card], sort_keys=True).encode())
    for folder in ("iapo", "benchmarks", "config"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".yaml"):
                digest.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def jobs(names: Sequence[tuple[str, float]], scale: str, work: Path) -> list[Job]:
    """Return the processes of some checks.

    Args:
        names: of the checks, with their time limits.
        scale: at which they run.
        work: folder of their outcomes, logs and what they leave for each other.
    """
    return [
        Job(
            name,
            (sys.executable, "-m", "benchmarks.gpu_check.one_check", name, scale, str(work), str(result)),
            result,
            seconds,
        )
        for name, seconds in names
        for result in [(work / f"{name}.json").resolve()]
    ]
