"""Folders of files that a user has already, in the hub's place: linked, copied or refused."""

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from iapo.config.sources import HubConfig, RepositoryConfig
from iapo.hub.download import MARKER, HubError, fetch

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
