"""Too little room is one line that says what to do: limits of real processes, a small disk, libraries' own errors."""

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from iapo.artifacts.code_digest import ROOT
from iapo.artifacts.files import atomic_write
from iapo.jobs.job_log import error_text
from iapo.jobs.preflight import PreflightError
from iapo.jobs.room import check_room, room_text

CHECKS = """
import sys
from pathlib import Path
from iapo.jobs.preflight import PreflightError
from iapo.jobs.room import check_room
try:
    check_room(Path(sys.argv[1]))
except PreflightError as error:
    print(error)
"""
JOB = """
from types import SimpleNamespace
from iapo.jobs.workflow_job import job

class Settings(dict):
    __getattr__ = dict.get

with job(SimpleNamespace(config={"profile": "x"}, log=["logs/job.log"], threads=1, resources={}, rule="x", input=[],
         output=[], params=Settings())):
    from pathlib import Path
    from iapo.artifacts.files import atomic_write
    with atomic_write(Path("made")) as tmp:
        tmp.write_bytes(bytes(1_000_000))
"""


def python(code: str, folder: Path, limited: Callable[[], None]) -> tuple[str, int]:
    """What a process with limits of its own says, and its status."""
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, preexec_fn=limited,
    )  # fmt: skip
    return done.stdout + done.stderr, done.returncode


@pytest.mark.parametrize(
    ("limit", "value", "expected"),
    [
        (resource.RLIMIT_NOFILE, 40, "found a limit of 40 open files, expected 256 or more; raise it: `ulimit -n 256`"),
        (resource.RLIMIT_AS, 2_000_000_000, "found a limit of 2.0 GB of address space, expected none or 12 GB, of "
         "which little is used; lift it: `ulimit -v unlimited`"),
    ],
)  # fmt: skip
def test_a_low_limit_is_one_line_before_the_run(tmp_path: Path, limit: int, value: int, expected: str) -> None:
    assert python(CHECKS, tmp_path, lambda: resource.setrlimit(limit, (value, value))) == (f"{expected}\n", 0)


def test_a_limit_that_may_be_raised_is_raised(tmp_path: Path) -> None:
    code = f"{CHECKS}\nimport resource\nprint(resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert python(code, tmp_path, lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (40, hard))) == ("256\n", 0)


def test_a_folder_that_takes_no_files_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PreflightError, match=r"found Not a directory, expected a folder that takes files"):
        check_room(tmp_path / "file/results")
    check_room(tmp_path / "results")  # takes them, and keeps none
    assert list((tmp_path / "results").iterdir()) == []


def small_files() -> None:
    # Without a signal, as on a full disk.
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


def test_a_job_without_room_leaves_a_line_and_nothing_half_written(tmp_path: Path) -> None:
    said, status = python(JOB, tmp_path, small_files)
    assert (said, status) == ("", 1)
    assert (tmp_path / "logs/job.log").read_text() == (
        "error: found a limit of the size of files reached, expected none: `ulimit -f unlimited`; the same command "
        "goes on from there\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["logs"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Path:
    """A disk of 64 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting is not permitted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_job_on_a_full_disk_says_so_to_the_run_where_its_log_takes_no_more(small_disk: Path) -> None:
    (small_disk / "logs").mkdir()
    said, status = python(JOB, small_disk, lambda: None)
    log = (small_disk / "logs/job.log").read_text()
    assert status == 1 and "found no space left on the disk, expected room for it: free some" in said + log
    assert "Traceback" not in said + log
    assert [path.name for path in small_disk.iterdir()] == ["logs"]
    with pytest.raises(PreflightError, match=r"disk: found no space left on the disk, expected room for it: free some"):
        check_room(small_disk)
    # Now not even the log.
    (small_disk / "fills").write_bytes(bytes(60_000))
    said, status = python(JOB.replace("bytes(1_000_000)", "b''").replace("    from pathlib", "    print('x' * 99_999)\n"
                          "    from pathlib", 1), small_disk, lambda: None)  # fmt: skip
    assert status == 1 and said.startswith("error: ") and "no space left" in said and "Traceback" not in said


def full(name: str) -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)


def test_known_errors_are_told_and_others_are_not() -> None:
    assert room_text(full("a/b")) == (
        "a/b: found no space left on the disk, expected room for it: free some; the same command goes on from there"
    )
    assert error_text(MemoryError()) == (
        "error: found no memory left, expected more: end other programs, or run fewer jobs at once (`--cores`); the "
        "same command goes on from there"
    )
    for words in ("I/O error: No space left on device (os error 28)", "PytorchStreamWriter failed writing file data/0"):
        assert (room_text(RuntimeError(words)) or "").startswith("found no space left")
    for error in (ValueError("x"), OSError(errno.ENOENT, "x"), OSError("x"), KeyError(28)):
        assert room_text(error) is None


def test_the_cause_of_an_error_is_looked_at() -> None:
    outer = RuntimeError("could not save")
    outer.__cause__ = full("weights")
    assert (room_text(outer) or "").startswith("weights: found no space left")
    hidden = RuntimeError("another fault")
    hidden.__context__, hidden.__suppress_context__ = full("weights"), True
    assert room_text(hidden) is None


def test_torch_out_of_room_is_known(tmp_path: Path) -> None:
    """As torch says it, not as a test does."""
    code = """
import torch
from iapo.jobs.room import room_text
try:
    torch.save(torch.zeros(100_000), "x.pt")
except Exception as error:
    print(room_text(error))
"""
    said, _ = python(code, tmp_path, small_files)
    assert said.startswith("found no space left on the disk")
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**60, dtype=torch.uint8)
    assert (room_text(error.value) or "").startswith("found no memory left")


def test_a_temporary_name_is_not_the_file(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("old")
    with pytest.raises(OSError), atomic_write(tmp_path / "kept") as tmp:
        tmp.write_text("ha")
        raise full(str(tmp))
    assert [path.name for path in tmp_path.iterdir()] == ["kept"] and (tmp_path / "kept").read_text() == "old"


def test_every_process_reads_and_writes_utf8_whatever_the_locale(tmp_path: Path) -> None:
    code = """
import subprocess, sys
from iapo.jobs.places import use_utf8
use_utf8()
subprocess.run([sys.executable, "-c", "open('page', 'w').write(chr(8722))"], check=True)
"""
    environment = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], env=os.environ | environment, cwd=tmp_path, check=True)
    assert (tmp_path / "page").read_text(encoding="utf-8") == chr(8722)
