"""Files that appear whole or not at all, folders that one process holds, and digests of content."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from filelock import lock_descriptor

_LOOK_AGAIN_SECONDS = 0.2

_log = logging.getLogger(__name__)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder that becomes ``path`` when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield tmp
        with tmp.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(tmp, path)
    finally:
        tmp.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Like :func:`atomic_write` for a folder; what was at ``path`` before is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.with_name(f".{path.name}.{os.getpid()}.part")
    shutil.rmtree(tmp, ignore_errors=True)
    tmp.mkdir()
    try:
        yield tmp
        shutil.rmtree(path, ignore_errors=True)
        os.replace(tmp, path)
    finally:
        shutil.rmtree(tmp, ignore_errors=True)


def between_marks(text: str, begin: str, end: str, content: str) -> str:
    """Return a page with new content between two marks, which stay.

    Raises:
        ValueError: if the page does not have each mark once, in this order.
    """
    before, opened, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not (opened and closed) or begin in rest or end in after:
        raise ValueError(f"found no page with {begin!r} and then {end!r}, each once")
    return f"{before}{begin}\n{content}\n\n{end}{after}"


def write_json(path: Path, facts: Any) -> None:
    """Write JSON, whole or not at all; a number that is not one becomes null."""
    with atomic_write(path) as tmp:
        tmp.write_text(json.dumps(_finite(facts), indent=1) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def sha256_file(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def files_below(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder that another run may be writing to.

    ``Path.rglob`` ends with an error where a folder vanishes while it looks, as checkpoints and temporary ones do. A
    file may still vanish after it was found.
    """
    for inside, _, names in os.walk(folder):
        yield from (Path(inside, name) for name in names)


@contextmanager
def exclusive(directory: Path) -> Iterator[None]:
    """Hold a run directory: an orphan of a killed run may still be writing there, and is waited for."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / ".lock"
    file = lock_until_exit(path)
    if file is None:
        _log.info("%s is in use by process %s; waiting for it to end", directory, path.read_text() or "unknown")
    while file is None:
        time.sleep(_LOOK_AGAIN_SECONDS)
        file = lock_until_exit(path)
    try:
        yield
    finally:
        os.close(file)


def exclusive_beside(directory: Path) -> AbstractContextManager[None]:
    """The same for a folder that is removed or replaced meanwhile: the lock is in another one beside it."""
    return exclusive(directory.with_name(f".{directory.name}"))


def lock_until_exit(path: Path, mode: int = 0o644) -> int | None:
    """Take a lock that the system frees when this process ends, however it ends; without waiting.

    Held by an open file alone and by no object, so that nothing but the process's end, or closing the file, frees it.

    Args:
        path: of the lock's file, which then holds this process's number.
        mode: permissions of that file.

    Returns:
        The open file, which gives the lock back when closed; None where the lock is held already.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode)
    if not lock_descriptor(file, blocking=False):
        os.close(file)
        return None
    os.ftruncate(file, 0)
    os.write(file, str(os.getpid()).encode())
    return file


def directory_beside(stats: Path) -> Path:
    """The folder that a file ``<folder>.stats.json`` beside it is about."""
    return stats.with_name(stats.name.removesuffix(".stats.json"))


def digest(*parts: bytes) -> str:
    """sha256 over length-prefixed parts, so that no two lists of parts read the same."""
    sha256 = hashlib.sha256()
    for part in parts:
        sha256.update(len(part).to_bytes(8, "big"))
        sha256.update(part)
    return sha256.hexdigest()
