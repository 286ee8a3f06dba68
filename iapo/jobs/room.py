"""Room that the system gives: disk, open files, memory. What is said where a run or a job has too little. No torch."""

from __future__ import annotations

import errno
import os
import resource
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from iapo.jobs.preflight import PreflightError, report_problems

_OPEN_FILES = 256
"""What the run holds at once: a pipe and a log for each job, and Snakemake's database."""
_ADDRESS_SPACE_GB = 12
"""Torch, transformers and TRL map 5 GB as they are imported, and a training twice that; little of it is used."""

_PROBE_BYTES = 1_000_000
"""Logs and Snakemake's own notes need as much, before any result."""

_AGAIN = "; the same command goes on from there"
_CAUSES = {
    errno.ENOSPC: ("no space left on the disk", "room for it: free some"),
    errno.EDQUOT: ("this user's quota of the disk used up", "room for it: free some"),
    errno.EFBIG: ("a limit of the size of files reached", "none: `ulimit -f unlimited`"),
    errno.EROFS: ("a read-only disk", "one that takes files: mount it writable, or run in another folder"),
    errno.EMFILE: ("the limit of open files reached", f"{_OPEN_FILES} or more: raise `ulimit -n`"),
    errno.ENFILE: ("the machine's limit of open files reached", "room: end other programs"),
    errno.ENOMEM: ("no memory left", "more: end other programs, or run fewer jobs at once (`--cores`)"),
    errno.EIO: ("a disk that does not read or write", "one that does: have it repaired"),
}
"""Error number → what was found, and what was expected with what to do."""
_WORDS = {
    # Torch, whose writer of checkpoints says of any disk that takes no more of a file:
    "PytorchStreamWriter failed": errno.ENOSPC,
    "basic_ios::clear: iostream error": errno.ENOSPC,
    ". unexpected pos ": errno.ENOSPC,
    "DefaultCPUAllocator: can't allocate memory": errno.ENOMEM,
    **{f"os error {number}": number for number in _CAUSES},
    **{os.strerror(number): number for number in _CAUSES},
}
"""Words of libraries whose errors have no number → the number."""


def room_text(error: BaseException) -> str | None:
    """Say in one line that a job had too little room; None where something else is wrong."""
    for each in _chain(error):
        number = _number(each)
        if number is not None:
            found, expected = _CAUSES[number]
            where = getattr(each, "filename", None)
            return f"{f'{where}: ' if where else ''}found {found}, expected {expected}{_AGAIN}"
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error, and those that it was raised from or beside."""
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        yield each
        each = each.__cause__ or (None if each.__suppress_context__ else each.__context__)


def _number(error: BaseException) -> int | None:
    if isinstance(error, MemoryError):
        return errno.ENOMEM
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno if error.errno in _CAUSES else None
    text = str(error)
    return next((number for words, number in _WORDS.items() if words in text), None)


def check_room(folder: Path) -> None:
    """The folder of a run's results takes files, and its processes may open the files and map the memory they need.

    Raises:
        PreflightError: one line per problem.
    """
    report_problems(partial(_check_writable, folder), _check_limits)


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Permissions say too little: root passes them all.
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(_PROBE_BYTES))
    except OSError as error:
        found, expected = _CAUSES.get(error.errno or 0, (error.strerror, "a folder that takes files: use another"))
        raise PreflightError(f"{folder}: found {found}, expected {expected}") from None


def _check_limits() -> None:
    """Raise the limit of open files where the system allows it; jobs inherit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < _OPEN_FILES and (hard >= _OPEN_FILES or hard == resource.RLIM_INFINITY):
        resource.setrlimit(resource.RLIMIT_NOFILE, (_OPEN_FILES, hard))
    elif 0 <= soft < _OPEN_FILES:
        raise PreflightError(
            f"found a limit of {soft} open files, expected {_OPEN_FILES} or more; raise it: `ulimit -n {_OPEN_FILES}`"
        )
    space, _ = resource.getrlimit(resource.RLIMIT_AS)
    if 0 <= space < _ADDRESS_SPACE_GB * 1e9:
        raise PreflightError(
            f"found a limit of {space / 1e9:.1f} GB of address space, expected none or {_ADDRESS_SPACE_GB} GB, of "
            "which little is used; lift it: `ulimit -v unlimited`"
        )
