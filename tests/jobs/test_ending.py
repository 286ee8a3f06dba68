"""Real processes that are asked to end, or whose starter is gone."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from iapo.artifacts.code_digest import ROOT

PRELUDE = """
import os, sys, time
from pathlib import Path
import iapo.jobs.ending as ending
ending.GRACE = float(os.environ.get("GRACE", "20"))
"""
WAITS = """
with ending.exit_when_asked():
    print("ready", flush=True)
    time.sleep(60)
"""
STEPS = """
with ending.exit_when_asked(), ending.steps() as steps:
    for step in range(1, 100):
        print("ready", flush=True)
        end = time.monotonic() + float(sys.argv[1])
        while time.monotonic() < end:
            time.sleep(0.01)
        if steps.are_to_end:
            steps.saved = step
            break
"""
STARTS = """
from iapo.jobs.launch import launch_alone
with ending.exit_when_asked():
    launch_alone(sys.argv[1], Path("argument"))
"""
STUBBORN = """
import signal, time
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.fixture
def started(tmp_path: Path) -> Iterator["Started"]:
    """Starts processes, and leaves none."""
    processes = Started(tmp_path)
    yield processes
    for each in processes.all:
        each.kill()
        each.wait()


class Started:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.all: list[subprocess.Popen[str]] = []

    def __call__(self, code: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start Python code, and wait until it or its child is ready."""
        command = [sys.executable, "-c", PRELUDE + code, *arguments]
        env = os.environ | {"PYTHONPATH": f"{ROOT}:{self.folder}"} | environment
        process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.all.append(process)
        assert process.stdout and process.stdout.readline() == "ready\n"
        return process


def said(process: subprocess.Popen[str]) -> list[str]:
    output, _ = process.communicate(timeout=30)
    return [line for line in output.splitlines() if line != "ready"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_job_ends_with_one_line(started: Started, number: signal.Signals) -> None:
    process = started(WAITS)
    process.send_signal(number)
    assert said(process) == ["interrupted"] and process.returncode == 130


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_step_is_ended_first(started: Started, number: signal.Signals) -> None:
    process = started(STEPS, "0.5")
    process.send_signal(number)
    # As from a terminal, which sends it to the job too.
    process.send_signal(signal.SIGINT)
    assert said(process) == ["interrupted after step 1, which is saved; the same command goes on from there"]
    assert process.returncode == 130


def test_a_step_that_is_longer_than_the_grace_is_not(started: Started) -> None:
    process = started(STEPS, "60", GRACE="1.5")
    process.terminate()
    assert said(process) == ["interrupted before its step ended, within 1.5 s or at a second signal"]


def test_a_second_signal_waits_for_no_step(started: Started) -> None:
    process = started(STEPS, "60")
    process.terminate()
    time.sleep(1.2)
    process.terminate()
    assert said(process)[0].startswith("interrupted before its step ended")


def test_what_a_job_has_started_ends_with_it(started: Started) -> None:
    (started.folder / "child.py").write_text(PRELUDE + WAITS)
    process = started(STARTS, "child")
    (child,) = psutil.Process(process.pid).children()
    process.terminate()
    assert said(process) == ["interrupted", "interrupted"]
    assert not child.is_running()


def test_a_child_that_does_not_end_is_killed_after_its_grace(started: Started) -> None:
    (started.folder / "child.py").write_text(STUBBORN)
    process = started(STARTS, "child", GRACE="0.1")
    (child,) = psutil.Process(process.pid).children()
    process.terminate()
    assert said(process) == ["interrupted"]
    assert not child.is_running()


def test_a_child_does_not_outlive_a_killed_job(started: Started) -> None:
    (started.folder / "child.py").write_text(PRELUDE + WAITS)
    process = started(STARTS, "child")
    (child,) = psutil.Process(process.pid).children()
    process.kill()
    process.wait()
    psutil.wait_procs([child], timeout=10)
    assert not child.is_running()
