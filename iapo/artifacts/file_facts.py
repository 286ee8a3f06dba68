"""What is known of a file when it is written, so that other bytes are noticed when it is read."""

from __future__ import annotations

from pathlib import Path
from typing import NotRequired, TypedDict

from iapo.artifacts.files import sha256_file


class FileFacts(TypedDict):
    """Size and digest of a file."""

    sha256: NotRequired[str]
    """Absent where hashing the file would take too long."""
    bytes: int


def facts_of(file: Path) -> FileFacts:
    """Return the size and the digest of a file."""
    return {"sha256": sha256_file(file), "bytes": file.stat().st_size}


def difference(file: Path, expected: FileFacts) -> str | None:
    """Return what was found in place of a file and what was expected, as a part of a sentence; None if it is the same.

    Args:
        file: may be missing.
        expected: of the file as it was written.
    """
    if not file.is_file():
        return f"found no file, expected {expected['bytes']} bytes"
    size = file.stat().st_size
    if size != expected["bytes"]:
        return f"found {size} bytes, expected {expected['bytes']}"
    if "sha256" in expected and (found := sha256_file(file)) != expected["sha256"]:
        return f"found sha256 {found[:12]}…, expected {expected['sha256'][:12]}…"
    return None
