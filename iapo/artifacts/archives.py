"""Zip archives that are read without being unpacked: checked for members that no honest archive has.

The checks read the archive's list of members alone. What it says of their sizes can be relied on: zipfile gives out no
more bytes of a member than the list says.
"""

from __future__ import annotations

import stat
import zipfile
from pathlib import Path, PurePosixPath, PureWindowsPath

MAX_MEMBERS = 100_000
"""Most members of one archive; all of ChartQA is 20,000 charts."""

MAX_BYTES = 64 * 10**9
"""Most bytes that all members of one archive may have when unpacked."""

_MAX_RATIO = 200
"""Most unpacked bytes per packed one. Pictures hardly shrink and repetitive text to some hundredth; a bomb of zeros
shrinks to a thousandth."""

_SMALL = 10**6
"""Unpacked bytes of a member up to which its ratio does not matter."""


class ArchiveError(RuntimeError):
    """An archive that is broken or must not be read; the message names it, the member and what to do."""


def open_zip(path: Path) -> zipfile.ZipFile:
    """Open a zip archive, after checking the names, kinds and sizes of its members.

    Args:
        path: of the archive.

    Returns:
        The open archive; the caller closes it.

    Raises:
        ArchiveError: for a broken archive; for a member whose path is empty, absolute, has a backslash or leads out of
            the folder; for a link, a device or an encrypted member; for more members, more bytes or a higher
            compression than an archive of pictures and records has.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise ArchiveError(f"{path}: not a whole zip ({error}); delete it and download it again") from None
    try:
        _check_members(path, archive.infolist())
    except ArchiveError:
        archive.close()
        raise
    return archive


def _check_members(path: Path, members: list[zipfile.ZipInfo]) -> None:
    if len(members) > MAX_MEMBERS:
        raise ArchiveError(f"{path}: found {len(members):,} members, expected at most {MAX_MEMBERS:,}; {_DO_NOT}")
    for member in members:
        fault = _fault(member)
        if fault:
            raise ArchiveError(f"{path}: found the member {member.orig_filename!r}, {fault}; {_DO_NOT}")
    total = sum(member.file_size for member in members)
    if total > MAX_BYTES:
        raise ArchiveError(
            f"{path}: found members of {total / 1e9:,.0f} GB together, expected at most {MAX_BYTES / 1e9:.0f} GB; "
            f"{_DO_NOT}"
        )


_DO_NOT = "do not unpack this file: check where it is from and download it again"


def _fault(member: zipfile.ZipInfo) -> str | None:
    """Say what is wrong with one member, or None."""
    # zipfile cuts a name at a NUL, so the name as it is written is looked at.
    name = member.orig_filename
    kind = stat.S_IFMT(member.external_attr >> 16)
    if PureWindowsPath(name).anchor or ".." in PureWindowsPath(name).parts:
        return "which leaves the folder, expected a path below it"
    if "\0" in name or "\\" in name:
        return "whose name has a backslash or a NUL, expected slashes"
    if not PurePosixPath(name).parts:
        return "which names no file, expected a path"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "which is a link or a device, expected a file"
    if member.flag_bits & 0x1:
        return "which is encrypted, expected one that can be read"
    if member.file_size > max(_SMALL, _MAX_RATIO * member.compress_size):
        return (
            f"which grows from {member.compress_size:,} to {member.file_size:,} bytes, expected at most {_MAX_RATIO} "
            "times as many"
        )
    return None
