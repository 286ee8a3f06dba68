"""Zips that are read, and every kind of member for which one is refused."""

import io
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from iapo.artifacts import archives
from iapo.artifacts.archives import ArchiveError, open_zip


def _zip(path: Path, member: str, content: bytes = b"x", kind: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    entry = zipfile.ZipInfo(member)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = (kind | 0o644) << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images/whole.png", b"picture")
        archive.writestr(entry, content)
    return path


@pytest.mark.parametrize(
    "member", ["a.png", "./a.png", "a/b c/é.png", "a/", "...", "a..b/..c", "a/./b.png", "C.png"], ids=repr
)
def test_a_zip_of_ordinary_names_opens(tmp_path: Path, member: str) -> None:
    with open_zip(_zip(tmp_path / "a.zip", member)) as archive:
        assert archive.namelist() == ["images/whole.png", member]


@pytest.mark.parametrize(
    ("member", "fault"),
    [
        (".", "names no file"),
        ("./", "names no file"),
        ("..", "leaves the folder"),
        ("a/../../b.png", "leaves the folder"),
        ("a/..", "leaves the folder"),
        ("/outside.png", "leaves the folder"),
        ("//host/outside.png", "leaves the folder"),
        ("C:/outside.png", "leaves the folder"),
        ("C:outside.png", "leaves the folder"),
        ("a\\..\\outside.png", "leaves the folder"),
        ("a\\b.png", "backslash"),
    ],
    ids=repr,
)
def test_a_member_s_name_is_refused(tmp_path: Path, member: str, fault: str) -> None:
    path = _zip(tmp_path / "a.zip", member)
    with pytest.raises(ArchiveError, match=fault) as error:
        open_zip(path)
    assert (
        str(path) in str(error.value) and repr(member) in str(error.value) and "download it again" in str(error.value)
    )


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFSOCK])
def test_a_link_or_a_device_is_refused(tmp_path: Path, kind: int) -> None:
    with pytest.raises(ArchiveError, match=r"'a\.png', which is a link or a device"):
        open_zip(_zip(tmp_path / "a.zip", "a.png", b"/etc/passwd", kind))


def test_a_bomb_is_refused_before_a_byte_is_unpacked(tmp_path: Path) -> None:
    bomb = _zip(tmp_path / "a.zip", "bomb.png", bytes(20_000_000))
    with pytest.raises(ArchiveError, match=r"'bomb\.png', which grows from [\d,]+ to 20,000,000 bytes"):
        open_zip(bomb)
    # A blank picture or a few equal lines shrink as much, and are no danger.
    open_zip(_zip(tmp_path / "b.zip", "blank.bmp", bytes(900_000))).close()


def test_too_much_altogether_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _zip(tmp_path / "a.zip", "a.png", b"0123456789")
    monkeypatch.setattr(archives, "MAX_BYTES", 16)
    with pytest.raises(ArchiveError, match="GB together"):
        open_zip(path)
    monkeypatch.setattr(archives, "MAX_MEMBERS", 1)
    with pytest.raises(ArchiveError, match="found 2 members, expected at most 1"):
        open_zip(path)


def _encrypted(content: bytes) -> bytes:
    """Set the flag of an encrypted member in its header and in the list of members."""
    data = bytearray(content)
    data[data.rindex(b"PK\x03\x04") + 6] |= 1
    data[data.rindex(b"PK\x01\x02") + 8] |= 1
    return bytes(data)


@pytest.mark.parametrize(
    ("broken", "fault"),
    [
        (_encrypted, "is encrypted"),
        (lambda content: content[:-30], "not a whole zip"),
        (lambda content: b"<html>busy</html>", "not a whole zip"),
        (lambda content: b"", "not a whole zip"),
    ],
    ids=["encrypted", "cut", "a page", "empty"],
)
def test_a_zip_that_cannot_be_read(tmp_path: Path, broken: Callable[[bytes], bytes], fault: str) -> None:
    path = _zip(tmp_path / "a.zip", "a.png")
    path.write_bytes(broken(path.read_bytes()))
    with pytest.raises(ArchiveError, match=fault):
        open_zip(path)


def test_a_list_that_understates_a_size_gives_out_no_more(tmp_path: Path) -> None:
    """What the checks rest on: zipfile reads what the list of members says, and then finds the checksum wrong."""
    path = _zip(tmp_path / "a.zip", "bomb.png", bytes(5_000_000))
    data = bytearray(path.read_bytes())
    listed = data.rindex(b"PK\x01\x02")
    data[listed + 24 : listed + 28] = (1000).to_bytes(4, "little")
    path.write_bytes(bytes(data))
    with open_zip(path) as archive, pytest.raises(zipfile.BadZipFile, match="CRC"):
        archive.read("bomb.png")


def test_a_name_that_zipfile_would_cut_is_refused(tmp_path: Path) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("a.pngX.exe", b"x")
    path = tmp_path / "a.zip"
    path.write_bytes(content.getvalue().replace(b"a.pngX.exe", b"a.png\0.exe"))
    with pytest.raises(ArchiveError, match="NUL"):
        open_zip(path)
