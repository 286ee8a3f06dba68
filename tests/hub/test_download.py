"""Downloads of a pinned commit from a server that speaks the hub's protocol, and every way they fail."""

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from huggingface_hub import constants

from iapo.config.sources import HubConfig, RepositoryConfig
from iapo.hub.download import fetch
from iapo.hub.files import MARKER, HubError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO = "Owner/Model"
INDEX = json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}).encode()
FILES = {
    "config.json": b'{"model_type": "qwen2_5_vl"}',
    # More than the 10 MB that huggingface_hub writes at a time.
    "model-1.safetensors": os.urandom(12_000_000),
    "model-2.safetensors": os.urandom(100_000),
    "model.safetensors.index.json": INDEX,
    "folder with a space /table?.json": b"[]",
    "README.md": b"not asked for",
}
WRITTEN = constants.DOWNLOAD_CHUNK_SIZE
LARGE = ("model-1.safetensors", "model-2.safetensors")
PATTERNS = ["*.json", "*.safetensors"]
WANTED = sorted(set(FILES) - {"README.md"})


@dataclass
class Hub:
    """What the server holds, what it was asked and how it is to misbehave."""

    files: dict[str, bytes]
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    """Path of every file that was sent, and the range that was asked for."""
    refusal: tuple[int, str] | None = None
    """Status and error code of every answer."""
    missing: str | None = None
    """A file that is listed and gone."""
    sent_instead: dict[str, bytes] = field(default_factory=dict)
    """Other content than what is listed."""
    cut_after: int | None = None
    """Bytes after which every connection breaks off."""
    slow: bool = False
    """Whether a connection then waits instead, until `stopped`."""
    stopped: threading.Event = field(default_factory=threading.Event)
    address: str = ""


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            path = unquote(url.path)
            if hub.refusal:
                self._answer(hub.refusal[0], b"", {"X-Error-Code": hub.refusal[1]})
            elif path.startswith("/api/"):
                self._api(path, parse_qs(url.query))
            elif path.startswith("/cdn/"):
                self._send(path.removeprefix("/cdn/"))
            else:
                self._resolve(path)

        def _api(self, path: str, query: dict[str, list[str]]) -> None:
            kind, _, rest = path.removeprefix("/api/").partition("/")
            if kind not in ("models", "datasets") or not rest.startswith(f"{REPO}/"):
                self._answer(404, b"", {"X-Error-Code": "RepoNotFound"})
            elif not rest.endswith(f"/{COMMIT}"):
                self._answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
            elif "/revision/" in rest:
                self._answer(200, json.dumps({"id": REPO, "sha": COMMIT, "siblings": []}).encode(), {})
            else:
                # In pages of two, as the hub has pages of a thousand.
                start = int(query.get("cursor", ["0"])[0])
                names = sorted(hub.files)
                more = {"Link": f'<{hub.address}{path}?cursor={start + 2}>; rel="next"'} if names[start + 2 :] else {}
                page = [self._entry(name) for name in names[start : start + 2]]
                page.append({"type": "directory", "path": "folder", "oid": "0"})
                self._answer(200, json.dumps(page).encode(), more)

        def _entry(self, name: str) -> dict[str, Any]:
            content = hub.files[name]
            large = {"lfs": {"oid": _sha256(content), "size": len(content), "pointerSize": 9}} if name in LARGE else {}
            return {"type": "file", "path": name, "size": len(content), "oid": _blob(content)} | large

        def _resolve(self, path: str) -> None:
            name = path.removeprefix("/datasets").removeprefix(f"/{REPO}/resolve/{COMMIT}/")
            if name == hub.missing or name not in hub.files:
                self._answer(404, b"", {"X-Error-Code": "EntryNotFound"})
            elif name in LARGE:
                self._answer(302, b"", {"Location": f"{hub.address}/cdn/{name}", "X-Repo-Commit": COMMIT})
            else:
                self._send(name)

        def _send(self, name: str) -> None:
            content = hub.sent_instead.get(name, hub.files[name])
            wanted = self.headers.get("Range")
            hub.requests.append((name, wanted))
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
            body = content[start:]
            headers = {"ETag": _sha256(content), "X-Repo-Commit": COMMIT}
            if wanted:
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self._head(206 if wanted else 200, len(body), headers)
            self.wfile.write(body[: hub.cut_after])
            if hub.slow:
                hub.stopped.wait()
            self.close_connection = hub.cut_after is not None

        def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self._head(status, len(body), headers)
            self.wfile.write(body)

        def _head(self, status: int, length: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in ({"Content-Length": str(length)} | headers).items():
                self.send_header(name, value)
            self.end_headers()

    return Handler


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    # As jobs for a CPU have it.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    state = Hub(dict(FILES))
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(state))
    state.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield state
    state.stopped.set()
    server.shutdown()
    server.server_close()


def _fetch(
    address: str, into: Path, *, files: list[str] = PATTERNS, kind: Any = "model", **source: Any
) -> dict[str, Any]:
    repository = RepositoryConfig(**{"repo": REPO, "revision": COMMIT} | source)
    return fetch(repository, HubConfig(address=address), files=files, kind=kind, into=into)


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_a_download_is_whole_verified_and_done_once(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    found = _fetch(hub.address, tmp_path, kind=kind)
    assert "download Owner/Model: MB 12/12" in capsys.readouterr().err
    for name in WANTED:
        assert (tmp_path / name).read_bytes() == FILES[name]
        assert found["files"][name] == {"sha256": _sha256(FILES[name]), "bytes": len(FILES[name])}
    assert list(found["files"]) == WANTED and found["revision"] == COMMIT and found["address"] == hub.address
    assert json.loads((tmp_path / MARKER).read_text()) == found
    assert constants.HF_HUB_OFFLINE is True  # switched back for everything else
    hub.refusal = 503, ""
    assert _fetch(hub.address, tmp_path, kind=kind) == found
    assert len(hub.requests) == len(WANTED)


def test_a_file_that_lost_bytes_is_downloaded_alone(hub: Hub, tmp_path: Path) -> None:
    _fetch(hub.address, tmp_path)
    hub.requests.clear()
    (tmp_path / "config.json").write_bytes(b"{}")
    _fetch(hub.address, tmp_path)
    assert hub.requests == [("config.json", None)]
    assert (tmp_path / "config.json").read_bytes() == FILES["config.json"]


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (401, "GatedRepo", ["refuses it (401)", "hf auth login"]),
        (403, "", ["refuses it (403)", "HF_TOKEN"]),
        (401, "RepoNotFound", ["finds no such repository (401)", "private"]),
        (404, "RepoNotFound", ["finds no such repository (404)", "check the name"]),
        (404, "RevisionNotFound", ["no such revision (404)", "pin another"]),
        (503, "", ["status 503", "try again later"]),
    ],
)
def test_a_refusal_says_what_to_do(hub: Hub, tmp_path: Path, status: int, code: str, said: list[str]) -> None:
    hub.refusal = status, code
    with pytest.raises(HubError) as error:
        _fetch(hub.address, tmp_path)
    assert [part for part in [REPO, COMMIT, hub.address, *said] if part not in str(error.value)] == []
    assert not (tmp_path / MARKER).exists()


def test_a_token_in_the_hub_s_address_is_neither_written_nor_said(hub: Hub, tmp_path: Path) -> None:
    address = hub.address.replace("http://", "http://me:hf_secret@")
    found = _fetch(address, tmp_path)
    assert found["address"] == hub.address.replace("http://", "http://***@")
    assert "hf_secret" not in (tmp_path / "fetched.json").read_text()
    # It is the same request as before.
    assert _fetch(address, tmp_path) == found
    with pytest.raises(HubError) as error:
        _fetch("http://me:hf_secret@127.0.0.1:9", tmp_path / "other")
    assert "hf_secret" not in str(error.value) and "http://***@127.0.0.1:9" in str(error.value)


def test_an_unreachable_hub(tmp_path: Path) -> None:
    with pytest.raises(HubError, match=r"http://127\.0\.0\.1:9 cannot be reached.*hub\.address"):
        _fetch("http://127.0.0.1:9", tmp_path)


def test_a_file_that_moved(hub: Hub, tmp_path: Path) -> None:
    hub.missing = "config.json"
    with pytest.raises(HubError, match=r"no file .*config\.json \(404\); it was moved"):
        _fetch(hub.address, tmp_path)
    with pytest.raises(HubError, match=r"not found in .*: gone\.json; it has 6 files"):
        _fetch(hub.address, tmp_path, files=["*.json", "gone.json"])
    with pytest.raises(HubError, match=r"not found in .*: \*\.parquet"):
        _fetch(hub.address, tmp_path, files=["*.parquet"])


@pytest.mark.parametrize("name", ["model-2.safetensors", "config.json"])
def test_a_wrong_hash_is_set_aside_and_alone_downloaded_again(hub: Hub, tmp_path: Path, name: str) -> None:
    hub.sent_instead[name] = bytes(len(FILES[name]))
    with pytest.raises(HubError, match=rf"{name}\.bad: found .*, expected .*downloads this file again"):
        _fetch(hub.address, tmp_path)
    assert (tmp_path / f"{name}.bad").read_bytes() == bytes(len(FILES[name]))
    assert not (tmp_path / name).exists() and not (tmp_path / MARKER).exists()
    whole = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} & set(WANTED)
    hub.sent_instead.clear()
    hub.requests.clear()
    _fetch(hub.address, tmp_path)
    assert {sent for sent, _ in hub.requests} == set(WANTED) - whole
    assert (tmp_path / name).read_bytes() == FILES[name]


def test_named_digests_are_held_against(hub: Hub, tmp_path: Path) -> None:
    right = {"config.json": _sha256(FILES["config.json"]), "model-1.safetensors": _sha256(FILES["model-1.safetensors"])}
    _fetch(hub.address, tmp_path / "right", sha256=right)
    with pytest.raises(HubError, match=r"config\.json\.bad: found sha256"):
        _fetch(hub.address, tmp_path / "small", sha256={"config.json": "0" * 64})
    hub.requests.clear()
    with pytest.raises(HubError, match=r"model-1\.safetensors has the sha256 .* on the hub, expected 0000"):
        _fetch(hub.address, tmp_path / "large", sha256={"model-1.safetensors": "0" * 64})
    assert hub.requests == []
    with pytest.raises(HubError, match="has the sha256"):  # named after an earlier, whole download
        _fetch(hub.address, tmp_path / "right", sha256={"model-1.safetensors": "0" * 64})


def test_a_broken_connection_is_taken_up_where_it_broke(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    hub.cut_after = 11_000_000
    _fetch(hub.address, tmp_path)
    (first, second) = [wanted for name, wanted in hub.requests if name == "model-1.safetensors"]
    assert first is None and second == f"bytes={WRITTEN}-"
    assert (tmp_path / "model-1.safetensors").read_bytes() == FILES["model-1.safetensors"]


def test_a_connection_that_never_lasts_is_given_up(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    hub.cut_after = 0
    with pytest.raises(HubError, match=r"connection broke.*goes on from there"):
        _fetch(hub.address, tmp_path)


def test_a_killed_download_goes_on_with_a_range_request(hub: Hub, tmp_path: Path) -> None:
    hub.cut_after, hub.slow = 11_000_000, True
    script = (
        "import sys; from pathlib import Path; from iapo.hub.download import fetch\n"
        "from iapo.config.sources import HubConfig, RepositoryConfig\n"
        "repo, revision, address, into = sys.argv[1:]\n"
        "fetch(RepositoryConfig(repo=repo, revision=revision), HubConfig(address=address),\n"
        "      files=['model-1.safetensors'], kind='model', into=Path(into))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, REPO, COMMIT, hub.address, str(tmp_path)],
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size >= WRITTEN for path in tmp_path.glob(".*.part")):
        assert process.poll() is None and time.monotonic() < deadline, "the download was not caught in its midst"
        time.sleep(0.05)
    process.kill()
    process.wait()
    (part,) = tmp_path.glob(".model-1.safetensors.*.part")
    assert part.stat().st_size == WRITTEN and not (tmp_path / MARKER).exists()
    hub.cut_after, hub.slow = None, False
    hub.stopped.set()
    hub.requests.clear()
    _fetch(hub.address, tmp_path)
    assert ("model-1.safetensors", f"bytes={WRITTEN}-") in hub.requests
    assert (tmp_path / "model-1.safetensors").read_bytes() == FILES["model-1.safetensors"]
    assert list(tmp_path.glob(".*.part")) == []


def test_bytes_of_another_content_are_not_continued(hub: Hub, tmp_path: Path) -> None:
    """The pinned revision changed between an interrupted download and the next."""
    name = "model-1.safetensors"
    (tmp_path / f".{name}.{'f' * 12}.part").write_bytes(b"begun of another commit")
    (tmp_path / name).write_bytes(bytes(len(FILES[name])))
    _fetch(hub.address, tmp_path)
    assert (name, None) in hub.requests
    assert (tmp_path / name).read_bytes() == FILES[name] and list(tmp_path.glob(".*.part")) == []


def test_too_small_a_disk(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    total, used, _ = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(total, used, 2_000_000))  # type: ignore[attr-defined]
    with pytest.raises(HubError, match=r"found 0\.0 GB of free disk, .* needs 0\.0 GB more.*hub\.downloads"):
        _fetch(hub.address, tmp_path)
    assert hub.requests == []
    # What is here already needs no more room.
    (tmp_path / "model-1.safetensors").write_bytes(FILES["model-1.safetensors"])
    _fetch(hub.address, tmp_path)


def test_a_disk_that_fills_up(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("iapo.hub.download.http_get", full)
    with pytest.raises(HubError, match=r"the disk of .* is full; .*kept"):
        _fetch(hub.address, tmp_path)


def test_an_index_that_names_a_missing_shard(hub: Hub, tmp_path: Path) -> None:
    del hub.files["model-2.safetensors"]
    with pytest.raises(HubError, match=r"names 2 shards, not found: model-2\.safetensors"):
        _fetch(hub.address, tmp_path)
    assert not (tmp_path / MARKER).exists()


def test_a_file_that_would_leave_the_folder(hub: Hub, tmp_path: Path) -> None:
    hub.files["../evil.json"] = b"{}"
    with pytest.raises(HubError, match="leaves the folder"):
        _fetch(hub.address, tmp_path / "in")
    assert not (tmp_path / "evil.json").exists()


def test_a_folder_that_was_fetched_elsewhere_knows_its_commit_and_digests(hub: Hub, tmp_path: Path) -> None:
    carried = tmp_path / "carried" / REPO
    _fetch(hub.address, carried)
    assert list(_fetch(str(tmp_path / "carried"), tmp_path / "into")["files"]) == WANTED
    with pytest.raises(HubError, match=rf"holds commit {COMMIT}, expected aaaaaaa"):
        _fetch(str(tmp_path / "carried"), tmp_path / "other", revision="a" * 40)
    (carried / "config.json").write_bytes(b"cut off")
    with pytest.raises(HubError, match=r"config\.json: found sha256"):
        _fetch(str(tmp_path / "carried"), tmp_path / "spoilt")


def test_a_server_that_keeps_a_pointer_in_a_file_s_place(hub: Hub, tmp_path: Path) -> None:
    """Pushed without Git LFS, its listing vouches for the pointer itself."""
    hub.files["config.json"] = b"version https://git-lfs.github.com/spec/v1\noid sha256:%064d\nsize 9\n" % 0
    with pytest.raises(HubError, match=r"config\.json\.bad: found a Git LFS pointer of .*pushed no content"):
        _fetch(hub.address, tmp_path)
    assert not (tmp_path / MARKER).exists()
