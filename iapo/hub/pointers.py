"""Pointers: what Git LFS and git-annex leave in the place of a large file whose content is not here."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

PointerKind = Literal["Git LFS", "git-annex"]

_MAX_BYTES = 1024
"""Size below which Git LFS takes a file for a pointer; a larger one is a file that only begins like one."""

_BEGINNINGS: dict[bytes, PointerKind] = {
    b"version https://git-lfs.github.com/spec/": "Git LFS",
    # Its name until 2015; Git LFS still reads these.
    b"version https://hawser.github.com/spec/": "Git LFS",
    b"/annex/objects/": "git-annex",
}

_ANNEX_OBJECTS = ".git/annex/objects"

FETCH_CONTENT: dict[PointerKind, str] = {"Git LFS": "git lfs pull", "git-annex": "git annex get ."}
"""Kind of pointer → the command that puts the content in its place."""


def pointer_kind(path: Path) -> PointerKind | None:
    """Return what a file points with, or None where it is a file of its own content.

    Args:
        path: a file, or a link whose target need not exist.
    """
    if path.is_symlink() and not path.exists():
        return "git-annex" if _ANNEX_OBJECTS in path.readlink().as_posix() else None
    if path.stat().st_size > _MAX_BYTES:
        return None
    with path.open("rb") as file:
        beginning = file.read(_MAX_BYTES)
    return next((kind for start, kind in _BEGINNINGS.items() if beginning.startswith(start)), None)
