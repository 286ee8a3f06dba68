"""A folder that one process holds, with real processes; files of a folder that others write to."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from iapo.artifacts.code_digest import ROOT
from iapo.artifacts.files import exclusive_beside, files_below, lock_until_exit

HOLDS = """
import logging, sys
from pathlib import Path
from iapo.artifacts.files import exclusive
logging.basicConfig(stream=sys.stdout, level="INFO", format="%(message)s")
with exclusive(Path(sys.argv[1])):
    print("holds", flush=True)
    sys.stdin.read()
"""


def start(folder: Path) -> subprocess.Popen[str]:
    """A process that holds the folder until it is told to end, or waits to."""
    return subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(folder)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def test_who_holds_a_folder_is_named_and_waited_for(tmp_path: Path) -> None:
    first = start(tmp_path)
    assert line_of(first) == "holds"
    second = start(tmp_path)
    assert line_of(second) == f"{tmp_path} is in use by process {first.pid}; waiting for it to end"
    first.communicate("")
    assert line_of(second) == "holds"
    third = start(tmp_path)
    assert f"by process {second.pid};" in line_of(third)
    # However it ends.
    second.kill()
    second.communicate()
    assert line_of(third) == "holds"
    third.communicate("")


def test_a_folder_that_vanishes_while_its_files_are_listed_is_passed_over(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "other")]
    for folder in folders:
        folder.mkdir()
        (folder / "file").touch()
    found = files_below(tmp_path)
    first = next(found)
    # By now it is known that both are there.
    (left,) = (folder for folder in folders if folder != first.parent)
    shutil.rmtree(left)
    assert list(found) == []


def test_a_folder_stays_held_though_it_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    with exclusive_beside(folder):
        folder.mkdir()
        shutil.rmtree(folder)
        assert lock_until_exit(tmp_path / ".cache/.lock") is None
    file = lock_until_exit(tmp_path / ".cache/.lock")
    assert file is not None
    os.close(file)
