"""A copy of the checkout, whose small run is started, watched and disturbed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from iapo.artifacts.code_digest import ROOT

RESULTS = Path("results/smoke")
TABLE = Path("results/table.csv")
_COMMAND = ["-m", "snakemake", "table_and_pages", "--cores", "2", "--configfile", "config/smoke.yaml"]
"""What `make smoke` runs: some files are read by the pages alone."""
_KEPT = ("results", ".snakemake")
_ENDS = 60.0
"""Seconds in which all processes of a run must end: a grace, and what its killers wait for."""


@dataclass(frozen=True)
class Stage:
    """A part of the run."""

    name: str
    logs: tuple[str, ...]
    """Beginnings of its jobs' logs, below the folder of logs."""
    made: str
    """What it makes, below the results: removed where it is to run again. Of a training its checkpoints and the policy
    that it keeps too; with these nothing would be trained."""


STAGES = (
    Stage("cold start", ("cold_start/", "teach_habit/"), "models/student/rare"),
    Stage("teacher", ("train_teacher/",), "teacher/start*/seed*"),
    Stage("cache", ("sample_student/", "cache_teacher/"), "teacher/start*/cache/main.*"),
    Stage("tuning", ("tuning/",), "tuning/*.json"),
    Stage("training", ("train/",), "train/*/seed*"),
    Stage("evaluation", ("evaluate/",), "eval/*"),
    Stage("tables", ("make_tables", "informative_teacher"), "tables"),
)


@dataclass(frozen=True)
class Footprint:
    """What the main process of a run holds."""

    memory_mb: float
    files: int


class Run:
    """A run of the one command, in a group of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.began = folder, time.time()
        # Beside the folder: what a run says must have room when the folder's disk is full.
        self.output = folder.with_name(f"{folder.name}.log")
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, *_COMMAND],
                cwd=folder,
                env=os.environ | {"PYTHONPATH": str(folder)},
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )

    def jobs(self) -> dict[psutil.Process, str]:
        """Its jobs that print into their logs by now, and the logs' names."""
        below: list[psutil.Process] = []
        with suppress(psutil.NoSuchProcess):
            below = psutil.Process(self.process.pid).children(recursive=True)
        return {each: name for each in below if (name := _log_of(each, self.folder / RESULTS / "logs"))}

    def of(self, stage: Stage) -> list[psutil.Process]:
        """Its jobs of a stage."""
        return [each for each, name in self.jobs().items() if name.startswith(stage.logs)]

    def wait_for(self, stage: Stage) -> bool:
        """Wait for a job of a stage; return whether there was one before the run ended."""
        while self.process.poll() is None:
            if self.of(stage):
                return True
            time.sleep(0.1)
        return False

    def footprint(self) -> Footprint | None:
        """What its main process holds by now; None where it has ended."""
        with suppress(psutil.NoSuchProcess):
            main = psutil.Process(self.process.pid)
            return Footprint(main.memory_info().rss / 1e6, main.num_fds())
        return None

    def ended(self, seconds: float = 1200) -> int:
        """Wait for its end and return its status."""
        return self.process.wait(seconds)

    def said(self) -> str:
        """What it printed, and the logs that its jobs wrote."""
        logs = (self.folder / RESULTS / "logs").rglob("*.log")
        own = [path.read_text(errors="replace") for path in sorted(logs) if path.stat().st_mtime >= self.began]
        return "\n".join([self.printed(), *own])

    def printed(self) -> str:
        """What it printed."""
        return self.output.read_text(errors="replace")


def _log_of(process: psutil.Process, logs: Path) -> str | None:
    with suppress(OSError, ValueError):
        return str(Path(f"/proc/{process.pid}/fd/1").readlink().relative_to(logs.resolve()))
    return None


class Clone:
    """A copy of the checkout's files, with results of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
        for name in filter(None, listed.decode().split("\0")):
            if (ROOT / name).is_file():
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.folder / name)

    def start(self) -> Run:
        """Start the run."""
        return Run(self.folder)

    def table(self) -> bytes | None:
        """The table's bytes; None where there is none."""
        path = self.folder / TABLE
        return path.read_bytes() if path.exists() else None

    def find(self, pattern: str) -> list[Path]:
        """Files and folders below the results."""
        return sorted((self.folder / RESULTS).glob(pattern))

    def forget(self, *patterns: str) -> None:
        """Remove results."""
        for pattern in patterns:
            for path in self.find(pattern):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def orphans(self) -> list[psutil.Process]:
        """Processes that still work in the folder after all should have ended; they are killed."""
        left = self._processes()
        deadline = time.monotonic() + _ENDS
        while left and time.monotonic() < deadline:
            time.sleep(0.2)
            left = self._processes()
        for each in left:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        return left

    def _processes(self) -> list[psutil.Process]:
        found = []
        for each in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if each.pid != os.getpid() and Path(each.cwd()) == self.folder:
                    found.append(each)
        return found

    def save(self, into: Path) -> Callable[[], None]:
        """Copy what a run has made; the function that is returned puts it back."""
        for name in _KEPT:
            shutil.copytree(self.folder / name, into / name, symlinks=True)

        def put_back() -> None:
            for name in _KEPT:
                shutil.rmtree(self.folder / name)
                shutil.copytree(into / name, self.folder / name, symlinks=True)

        return put_back


class Disk:
    """A disk of its own, whose room can be taken and given."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def fill(self) -> None:
        """Leave 64 kB of room."""
        used = shutil.disk_usage(self._folder).used
        self._resize(f"{used // 1024 + 64}k")

    def grow(self) -> None:
        """Give it room for everything."""
        self._resize("2g")

    def _resize(self, size: str) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", str(self._folder)], check=True)


@contextmanager
def disk(folder: Path) -> Iterator[Disk | None]:
    """A small disk at a folder; None where the system lets nobody mount."""
    folder.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2g", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        yield None
        return
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
