"""Repositories of the hub at a pinned commit, downloaded or taken from a folder, with every file verified.

huggingface_hub lists the commit, selects its files, logs in, and streams each file with retries (`http_get`). Its
`snapshot_download` is not used, for three reasons (1.33; tried against a server). A killed run's part of a file is
never taken up: it has a random name, stays on the disk, and the file starts over, which is hours for a model. A file of
the right size with the wrong content is accepted. And a file that is there already is taken as it is where the hub
does not answer. So this module keeps partial files under a name that a later run finds, and compares digests.
"""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import httpx
from huggingface_hub import HfApi, constants, errors, hf_hub_url
from huggingface_hub.file_download import http_get
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import build_hf_headers

from iapo.artifacts.archives import ArchiveError, open_zip
from iapo.artifacts.files import exclusive, write_json
from iapo.artifacts.progress import Progress
from iapo.artifacts.secrets import redacted
from iapo.config.sources import HubConfig, RepositoryConfig
from iapo.hub.files import MARKER, HubError, Kind, RepositoryFile, check_disk, chosen, verified
from iapo.hub.folder import take_from_folder
from iapo.hub.pointers import pointer_kind

_TOGETHER = 8
"""Files in transfer at a time; a data set may have thousands of small ones."""

_MB = 10**6


def fetch(source: RepositoryConfig, hub: HubConfig, *, files: Sequence[str], kind: Kind, into: Path) -> dict[str, Any]:
    """Have the files of a repository at its commit in a folder, each of them verified.

    A file is held against ``source.sha256`` where that names it, else against the hub's listing of the commit (sha256
    of large files, git's sha1 of the others), else against what the folder that it is taken from says of its files. A
    pointer of Git LFS or git-annex is never taken for the file that it stands for, and a zip that is not safe to read
    (:func:`iapo.artifacts.archives.open_zip`) is refused. What is there from an earlier call, whole or in part, is not
    downloaded again.

    Args:
        source: repository, commit, and digests that must be found.
        hub: a server, or a folder with ``<owner>/<name>/`` below it, whose files are linked, or copied from another
            disk. ``HF_HUB_OFFLINE`` does not hold here: a server's address in the configuration asks for it.
        files: glob patterns; ``*`` matches slashes too. A name without a wildcard must exist.
        kind: of the repository.
        into: folder that gets the files and, last, ``fetched.json``.

    Returns:
        What ``fetched.json`` holds: ``repo``, ``revision``, ``address``, ``kind``, ``patterns`` and ``files``, each
        with its ``sha256`` and ``bytes``.

    Raises:
        HubError: the hub cannot be reached, refuses or has moved something; a folder holds another commit; a file has
            another content than it should; the disk is too small; a model's index names a shard that is not there; a
            zip is broken or unsafe.
    """
    request = {
        "repo": source.repo,
        "revision": source.revision,
        "address": redacted(hub.address),
        "kind": kind,
        "patterns": list(files),
    }
    with exclusive(into):
        found = _fetched_before(into, request, source.sha256)
        if found is not None:
            return found
        (into / MARKER).unlink(missing_ok=True)
        take = _download if hub.address.startswith(("http://", "https://")) else take_from_folder
        with _explained(source, redacted(hub.address.rstrip("/")), into):
            digests = take(source, hub, files, kind, into)
        _check_shards(into, digests)
        _check_archives(into, digests)
        for begun in into.rglob(".*.part"):  # of another commit
            begun.unlink()
        facts = {path: {"sha256": digests[path], "bytes": (into / path).stat().st_size} for path in sorted(digests)}
        record = {**request, "files": facts}
        write_json(into / MARKER, record)
    return record


def _fetched_before(into: Path, request: Mapping[str, Any], named: Mapping[str, str]) -> dict[str, Any] | None:
    """Read the record of an earlier call for the same, where every file still has its size."""
    try:
        record: dict[str, Any] = json.loads((into / MARKER).read_text())
        whole = all(
            (into / path).stat().st_size == facts["bytes"] and pointer_kind(into / path) is None
            for path, facts in record["files"].items()
        )
        agreed = all(facts["sha256"] == named.get(path, facts["sha256"]) for path, facts in record["files"].items())
    except (OSError, ValueError, KeyError):
        return None
    return record if whole and agreed and all(record.get(key) == value for key, value in request.items()) else None


def _download(
    source: RepositoryConfig, hub: HubConfig, patterns: Sequence[str], kind: Kind, into: Path
) -> dict[str, str]:
    """Download what is not here yet; file → sha256. The first failure stops the other files."""
    address = hub.address.rstrip("/")
    digests = {}
    with _online():
        commit, listed = _listing(source, address, kind)
        wanted = chosen(listed, patterns, source, f"{redacted(address)} at {source.revision}")
        url = partial(hf_hub_url, source.repo, repo_type=kind, revision=commit, endpoint=address)
        held, total = sum(file.bytes_here(into) for file in wanted), sum(file.size for file in wanted)
        check_disk(into, total - held, source.repo)
        with (
            Progress(total // _MB, f"download {source.repo}", unit="MB", start=held // _MB) as progress,
            ThreadPoolExecutor(_TOGETHER) as pool,
        ):
            received = _Received(progress, held)
            pending = {pool.submit(_obtain, file, url(file.path), into, received): file.path for file in wanted}
            try:
                for done in as_completed(pending):
                    digests[pending[done]] = done.result()
            except BaseException:
                received.stopped = True
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    return digests


def _listing(source: RepositoryConfig, address: str, kind: Kind) -> tuple[str, list[RepositoryFile]]:
    """List the commit's files; a sha256 of the hub's that contradicts ours is found before any download."""
    api = HfApi(endpoint=address)
    commit = str(api.repo_info(source.repo, repo_type=kind, revision=source.revision, timeout=30).sha)
    if not commit.startswith(source.revision):
        raise HubError(
            f"{source.repo}: the hub answers with commit {commit}, expected {source.revision}; "
            "pin the commit that you mean (`revision`, forty hexadecimal digits)"
        )
    listed = []
    for entry in api.list_repo_tree(source.repo, recursive=True, repo_type=kind, revision=commit):
        if not isinstance(entry, RepoFile):
            continue
        ours, theirs = source.sha256.get(entry.path), entry.lfs and entry.lfs.sha256
        if ours and theirs and ours != theirs:
            raise HubError(
                f"{source.repo}: {entry.path} has the sha256 {theirs} on the hub, expected {ours} (`sha256`); nothing "
                "was downloaded. Check which of the two is right before you change either"
            )
        listed.append(RepositoryFile(entry.path, entry.size, ours or theirs or entry.blob_id))
    return commit, listed


class _Received:
    """Bytes of all files together, counted in place of :func:`http_get`'s progress bar."""

    def __init__(self, progress: Progress, held: int) -> None:
        self.stopped = False
        self._progress, self._bytes, self._lock = progress, held, threading.Lock()

    def update(self, received: int) -> None:
        """Count a chunk; negative where a file starts over. Raises once another file has failed."""
        if self.stopped:
            raise HubError("stopped with the others")
        with self._lock:
            before, self._bytes = self._bytes // _MB, self._bytes + received
            if self._bytes // _MB != before:
                self._progress.update(self._bytes // _MB - before)


def _obtain(file: RepositoryFile, url: str, into: Path, received: _Received) -> str:
    """Have one file whole and verified, from what is here of it; its sha256."""
    target, part = into / file.path, file.part(into)
    if target.is_file():
        sha256, wrong = verified(target, file)
        if wrong is None:
            return sha256
        counted = file.bytes_here(into)
        target.unlink()
        received.update(file.bytes_here(into) - counted)
    part.parent.mkdir(parents=True, exist_ok=True)
    with part.open("ab") as content:
        if content.tell() > file.size:
            content.truncate(0)
        http_get(
            url,
            content,
            resume_size=content.tell(),
            headers=build_hf_headers() | {"accept-encoding": "identity"},
            expected_size=file.size,
            tqdm_class=lambda **_: nullcontext(received),  # type: ignore[arg-type]
        )
    sha256, wrong = verified(part, file)
    if wrong is not None:
        bad = target.with_name(f"{target.name}.bad")
        os.replace(part, bad)
        pushed = "its owners pushed no content, so pin a commit or a repository that has it"
        again = "the same command downloads this file again"
        raise HubError(f"{bad}: {wrong}; {pushed if pointer_kind(bad) else again}")
    os.replace(part, target)
    return sha256


def _check_shards(into: Path, digests: Mapping[str, str]) -> None:
    """Look for every shard that a model's index names; loading would find out only later that one is missing."""
    for index in (path for path in digests if path.endswith(".safetensors.index.json")):
        folder = PurePosixPath(index).parent
        shards = set(json.loads((into / index).read_text())["weight_map"].values())
        missing = sorted(shard for shard in shards if str(folder / shard) not in digests)
        if missing:
            raise HubError(
                f"{into / index} names {len(shards)} shards, not found: {', '.join(missing)}; add them to the "
                "folder that `hub.address` names, or download the repository again"
            )


def _check_archives(into: Path, digests: Mapping[str, str]) -> None:
    """Refuse a broken or unsafe zip now; jobs open it hours later."""
    for archive in (path for path in digests if path.endswith(".zip")):
        try:
            open_zip(into / archive).close()
        except ArchiveError as error:
            raise HubError(str(error)) from None


@contextmanager
def _online() -> Iterator[None]:
    """Let huggingface_hub use the network, which jobs for a CPU switch off for everything else."""
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = False
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


@contextmanager
def _explained(source: RepositoryConfig, address: str, into: Path) -> Iterator[None]:
    """Turn what the library and the disk raise into one line that says what to do."""
    try:
        yield
    except (OSError, httpx.TransportError) as error:
        kept = f"what was downloaded is kept in {into}, and the next run goes on from there"
        raise HubError(f"{source.repo} at {source.revision}: {_advice(error, address, into)}; {kept}") from error


def _advice(error: OSError | httpx.TransportError, address: str, into: Path) -> str:
    """Say what happened and what to do about it."""
    log_in = "log in with `.venv/bin/hf auth login`, or set HF_TOKEN"
    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else None
    match error:
        case errors.RevisionNotFoundError() | errors.RemoteEntryNotFoundError():
            path = error.response.url.path
            gone = "no such revision" if isinstance(error, errors.RevisionNotFoundError) else f"no file {path}"
            return f"{address} says: {gone} ({status}); it was moved or removed: pin another one"
        case errors.HfHubHTTPError() if isinstance(error, errors.GatedRepoError) or status == 403:
            terms = "its owners must grant access. Accept their terms on its page"
            return f"{address} refuses it ({status}): {terms}, then {log_in}"
        case errors.RepositoryNotFoundError():
            return f"{address} finds no such repository ({status}): check the name; if it is private, {log_in}"
        case errors.HfHubHTTPError():
            return f"{address} answered with status {status}: try again later"
        case httpx.TransportError():
            broke = (
                f"{address} cannot be reached, or the connection broke ({redacted(str(error)) or type(error).__name__})"
            )
            return f"{broke}; check the network, or set `hub.address` to a folder with a copy"
        case OSError(errno=errno.ENOSPC):
            return f"the disk of {into} is full; free some, or set `hub.downloads` to a larger one"
    return " ".join(str(error).split())
