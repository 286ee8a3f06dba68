"""A clock that was set back in the midst of a run: the same command goes on."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from iapo.artifacts.files import files_below
from iapo.jobs import clock
from iapo.jobs.clock import settle_future_files

HOUR = 3600.0
COMPARED_BY_DATE = 2_000_000
"""Bytes of a file that Snakemake does not compare by its content."""

RULES = """
import sys
from pathlib import Path
from iapo.jobs.clock import settle_future_files
SETTLE = {settle}
if SETTLE and workflow.is_main_process:
    settle_future_files(Path("results"))
rule b:
    input: "results/a"
    output: "results/b"
    shell: "echo b > {{output}}"
rule a:
    output: "results/a"
    shell: "head -c {size} /dev/zero > {{output}}"
"""


def test_files_from_the_future_count_as_made_now_and_others_are_left(tmp_path: Path) -> None:
    before, after = tmp_path / "folder/before", tmp_path / "after"
    before.parent.mkdir()
    for path, hours in ((before, 1.0), (after, -1.0)):
        path.write_text("kept")
        os.utime(path, (time.time() + hours * HOUR,) * 2)
    said = settle_future_files(tmp_path)
    assert said and "found 1 files from up to 60 min in the future" in said
    assert abs(before.stat().st_mtime - time.time()) < 60 and after.stat().st_mtime < time.time() - HOUR / 2
    assert settle_future_files(tmp_path) is None and before.read_text() == "kept"


def test_the_clock_of_a_file_server_may_be_a_little_ahead(tmp_path: Path) -> None:
    path = tmp_path / "made on a server"
    path.touch()
    os.utime(path, (time.time() + 5,) * 2)
    assert settle_future_files(tmp_path) is None and settle_future_files(tmp_path / "absent") is None


def test_files_that_another_run_removes_meanwhile_are_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, temporary = tmp_path / "kept", tmp_path / "temporary"
    kept.touch()
    os.utime(kept, (time.time() + HOUR,) * 2)
    monkeypatch.setattr(clock, "files_below", lambda results: iter([temporary, *files_below(results)]))
    said = settle_future_files(tmp_path)
    assert said and "found 1 files" in said


def run(folder: Path, *, settle: bool) -> str:
    """What Snakemake says."""
    (folder / "Snakefile").write_text(RULES.format(settle=settle, size=COMPARED_BY_DATE))
    command = [sys.executable, "-m", "snakemake", "results/b", "--cores", "1", "--rerun-triggers", "mtime"]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return ended.stdout + ended.stderr


def test_a_run_goes_on_behind_a_clock_that_was_set_back(tmp_path: Path) -> None:
    assert "100%" in run(tmp_path, settle=True)
    # Made before the clock was set back by an hour; what follows from it was made after.
    os.utime(tmp_path / "results/a", (time.time() + HOUR,) * 2)
    assert "has older modification time" in run(tmp_path, settle=False), "the fault is gone by itself"
    assert "1 of 1 steps (100%) done" in run(tmp_path, settle=True)
    assert "Nothing to be done" in run(tmp_path, settle=True)
