"""Folders of files that a user has already, in the hub's place: linked, copied or refused."""

import errno
import json
import os
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

from iapo.artifacts.files import sha256_file
from iapo.config.sources import HubConfig, RepositoryConfig
from iapo.hub.download import fetch
from iapo.hub.files import MARKER, HubError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO = "Owner/Model"
FILES = {
    "config.json": b'{"model_type": "qwen2_5_vl"}',
    "model-1.safetensors": os.urandom(1000),
    "model-2.safetensors": os.urandom(100),
    "model.safetensors.index.json": json.dumps(
        {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    ).encode(),
    "folder with a space /table?.json": b"[]",
    "README.md": b"not asked for",
}
WANTED = sorted(set(FILES) - {"README.md"})


def _fetch(address: str, into: Path, **source: Any) -> dict[str, Any]:
    repository = RepositoryConfig(**{"repo": REPO, "revision": COMMIT} | source)
    return fetch(repository, HubConfig(address=address), files=["*.json", "*.safetensors"], kind="model", into=into)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a user has already: ``<owner>/<name>/`` with the files, and hidden ones that no repository has."""
    held = tmp_path / "mine" / REPO
    for name, content in (FILES | {".cache/huggingface/trees.json": b"{}"}).items():
        (held / name).parent.mkdir(parents=True, exist_ok=True)
        (held / name).write_bytes(content)
    return tmp_path / "mine"


def test_a_folder_is_linked_and_needs_no_network(folder: Path, tmp_path: Path) -> None:
    into = tmp_path / "into"
    found = _fetch(str(folder), into)
    assert list(found["files"]) == WANTED
    assert (into / "model-1.safetensors").samefile(folder / REPO / "model-1.safetensors")
    shutil.rmtree(folder)
    assert _fetch(str(folder), into) == found


def test_a_folder_on_another_disk_is_copied(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refused)
    _fetch(str(folder), tmp_path / "into")
    copied = tmp_path / "into/model-1.safetensors"
    assert copied.read_bytes() == FILES["model-1.safetensors"]
    assert not copied.samefile(folder / REPO / "model-1.safetensors")


def test_what_is_wrong_with_a_folder(folder: Path, tmp_path: Path) -> None:
    into = tmp_path / "into"
    with pytest.raises(HubError, match=r"model-2\.safetensors: found sha256 .*, expected 0000.*whole copy"):
        _fetch(str(folder), into, sha256={"model-2.safetensors": "0" * 64})
    with pytest.raises(HubError, match=r"Owner/Other is not a folder.*hub\.address"):
        _fetch(str(folder), into, repo="Owner/Other")
    (folder / REPO / "model-2.safetensors").unlink()
    with pytest.raises(HubError, match=r"not found: model-2\.safetensors"):
        _fetch(str(folder), into)
    assert not (into / MARKER).exists()


LFS = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 3968658944\n"
)
ANNEX = b"/annex/objects/SHA256E-s3968658944--4d7a214614ab2935c943f9e0ff69d22eadbb8f32b.safetensors\n"
OLD_LFS = LFS.replace(b"git-lfs.github", b"hawser.github")


@pytest.mark.parametrize("name", ["model-2.safetensors", "config.json"])
@pytest.mark.parametrize(
    ("pointer", "said"),
    [(LFS, "Git LFS pointer.*`git lfs pull`"), (OLD_LFS, "Git LFS"), (ANNEX, "git-annex pointer.*`git annex get .`")],
    ids=["lfs", "old lfs", "annex"],
)
def test_a_pointer_is_not_the_file(folder: Path, tmp_path: Path, name: str, pointer: bytes, said: str) -> None:
    (folder / REPO / name).write_bytes(pointer)
    with pytest.raises(HubError, match=rf"{REPO}/{name}: found a {said}"):
        _fetch(str(folder), tmp_path / "into")
    assert not (tmp_path / "into" / MARKER).exists() and not (tmp_path / "into" / name).exists()


def test_a_pointer_is_refused_whoever_vouches_for_it(folder: Path, tmp_path: Path) -> None:
    held = folder / REPO / "model-2.safetensors"
    first = _fetch(str(folder), tmp_path / "into")
    held.write_bytes(LFS)
    record = first | {"files": first["files"] | {held.name: {"sha256": sha256_file(held), "bytes": len(LFS)}}}
    (folder / REPO / MARKER).write_text(json.dumps(record))
    with pytest.raises(HubError, match="Git LFS pointer"):
        _fetch(str(folder), tmp_path / "other", sha256={held.name: sha256_file(held)})
    # What was recorded of it before pointers were looked for does not count either.
    (tmp_path / "into" / held.name).write_bytes(LFS)
    (tmp_path / "into" / MARKER).write_text(json.dumps(record))
    with pytest.raises(HubError, match="Git LFS pointer"):
        _fetch(str(folder), tmp_path / "into")


def test_a_large_file_may_begin_like_a_pointer(folder: Path, tmp_path: Path) -> None:
    (folder / REPO / "model-2.safetensors").write_bytes(LFS + bytes(2000))
    assert "model-2.safetensors" in _fetch(str(folder), tmp_path / "into")["files"]


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("../.git/annex/objects/aa/bb/SHA256E-s9--c/SHA256E-s9--c", "git-annex pointer .*git annex get"),
        ("../blobs/0123", "found a link to ../blobs/0123, which is not there"),
    ],
)
def test_a_link_to_nothing_is_named(folder: Path, tmp_path: Path, target: str, said: str) -> None:
    """A pattern would pass over it, and the file be missed hours later."""
    (folder / REPO / "model-2.safetensors").unlink()
    (folder / REPO / "model-2.safetensors").symlink_to(target)
    with pytest.raises(HubError, match=rf"model-2\.safetensors: .*{said}"):
        _fetch(str(folder), tmp_path / "into")
    # One that nobody asked for is nobody's concern.
    (folder / REPO / "model-2.safetensors").unlink()
    (folder / REPO / "model-2.safetensors").write_bytes(FILES["model-2.safetensors"])
    (folder / REPO / "README.md").unlink()
    (folder / REPO / "README.md").symlink_to(target)
    _fetch(str(folder), tmp_path / "into")


OTHER = "f" * 40


def _git(folder: Path, *command: str) -> str:
    settings = ["-c", "user.name=t", "-c", "user.email=t@t", "-c", "init.defaultBranch=main"]
    done = subprocess.run(["git", *settings, *command], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.mark.skipif(shutil.which("git") is None, reason="no git here")
@pytest.mark.parametrize("state", ["branch", "packed", "detached"])
def test_a_checkout_of_another_commit_is_refused(folder: Path, tmp_path: Path, state: str) -> None:
    held = folder / REPO
    _git(held, "init")
    _git(held, "commit", "--allow-empty", "-m", "one")
    commit = _git(held, "rev-parse", "HEAD")
    if state != "branch":
        _git(held, *{"packed": ["pack-refs", "--all"], "detached": ["checkout", "--detach"]}[state])
    with pytest.raises(HubError, match=rf"holds commit {commit}, expected {COMMIT}; run `git fetch .*pin the commit"):
        _fetch(str(folder), tmp_path / "into")
    assert not (tmp_path / "into" / MARKER).exists()
    _fetch(str(folder), tmp_path / "into", revision=commit)
    _fetch(str(folder), tmp_path / "other", revision=commit[:10])


def _note(folder: Path, name: str, commit: str, digest: str) -> None:
    """What huggingface_hub leaves beside a file that it downloads."""
    note = folder / REPO / ".cache/huggingface/download" / f"{name}.metadata"
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(f"{commit}\n{digest}\n1764180000.0\n")


def test_what_huggingface_hub_noted_is_held_against(folder: Path, tmp_path: Path) -> None:
    for name in WANTED:
        _note(folder, name, COMMIT, sha256_file(folder / REPO / name))
    _fetch(str(folder), tmp_path / "into")
    _note(folder, "config.json", OTHER, "0" * 40)
    with pytest.raises(HubError, match=rf"config\.json holds commit {OTHER}, expected {COMMIT}; run `hf download .*"):
        _fetch(str(folder), tmp_path / "other")
    _note(folder, "config.json", COMMIT, "0" * 40)
    with pytest.raises(HubError, match=r"config\.json: found git blob .*, expected 0000.*whole copy"):
        _fetch(str(folder), tmp_path / "other")
    _note(folder, "README.md", OTHER, "0" * 40)  # not asked for
    _note(folder, "config.json", COMMIT, '"quoted"')  # of a mirror
    _fetch(str(folder), tmp_path / "other")


def test_a_snapshot_of_another_commit_is_refused(folder: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "hub/models--Owner--Model/snapshots" / OTHER
    snapshot.parent.mkdir(parents=True)
    (folder / REPO).rename(snapshot)
    (folder / REPO).symlink_to(snapshot)
    with pytest.raises(HubError, match=rf"holds commit {OTHER}, expected {COMMIT}; link the snapshot"):
        _fetch(str(folder), tmp_path / "into")
    _fetch(str(folder), tmp_path / "into", revision=OTHER)


def test_a_record_of_another_commit_is_refused(folder: Path, tmp_path: Path) -> None:
    filled = tmp_path / "filled" / REPO
    _fetch(str(folder), filled)
    _fetch(str(tmp_path / "filled"), tmp_path / "into")
    with pytest.raises(HubError, match=rf"holds commit {COMMIT}, expected {OTHER}; download that one"):
        _fetch(str(tmp_path / "filled"), tmp_path / "other", revision=OTHER)
    (filled / MARKER).write_text('{"repo": "of another tool"}')
    _fetch(str(tmp_path / "filled"), tmp_path / "other")


def test_files_that_nobody_vouches_for_are_said(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    known = {name: sha256_file(folder / REPO / name) for name in WANTED if name != "config.json"}
    _fetch(str(folder), tmp_path / "into", sha256=known)
    (message,) = caplog.messages
    assert f"1 of {len(WANTED)} files must contain (config.json" in message and "`sha256`" in message
    caplog.clear()
    _fetch(str(folder), tmp_path / "other", sha256=known | {"config.json": sha256_file(folder / REPO / "config.json")})
    assert caplog.messages == []


def test_an_unsafe_zip_is_refused_where_it_is_fetched(folder: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(folder / REPO / "images.zip", "w") as archive:
        archive.writestr(".", b"x")
    source = RepositoryConfig(repo=REPO, revision=COMMIT)
    with pytest.raises(HubError, match=r"images\.zip: found the member '\.'"):
        fetch(source, HubConfig(address=str(folder)), files=["*.zip"], kind="dataset", into=tmp_path / "into")
    assert not (tmp_path / "into" / MARKER).exists()
