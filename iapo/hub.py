"""Repositories of the hub at a pinned commit, downloaded or taken from a folder, with every file verified."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import filter_repo_objects

from iapo.config_sources import HubConfig, RepositoryConfig
from iapo.hub_transfer import SHA256_DIGITS, HubError, RepositoryFile, Transfer, bytes_here, explained, online, verified
from iapo.provenance import atomic_write, exclusive, write_json

MARKER = "fetched.json"
"""Written last: where it is, everything that it names is there and verified."""
Kind = Literal["model", "dataset"]

_RECORD = "fetched.run.json"
_ANSWER_SECONDS = 30.0
"""Longest wait for the hub's first answer."""


def is_url(address: str) -> bool:
    """Whether a hub's address is a server rather than a folder."""
    return address.startswith(("http://", "https://"))


def fetch(source: RepositoryConfig, hub: HubConfig, *, files: Sequence[str], kind: Kind, into: Path) -> dict[str, Any]:
    """Have the files of a repository at its commit in a folder, each of them verified.

    A file is held against ``source.sha256`` where that names it, else against the hub's listing of the commit (sha256
    of large files, git's sha1 of the others), else against the ``fetched.json`` of the folder that it is taken from.
    What is there from an earlier call, whole or in part, is not downloaded again.

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
        HubError: the hub cannot be reached, refuses or has moved something; a file has another content than it should;
            the disk is too small; a model's index names a shard that is not there.
    """
    into.mkdir(parents=True, exist_ok=True)
    request = {
        "repo": source.repo,
        "revision": source.revision,
        "address": hub.address,
        "kind": kind,
        "patterns": list(files),
    }
    with exclusive(into):
        found = _fetched_before(into, request, source.sha256)
        if found is not None:
            return found
        (into / MARKER).unlink(missing_ok=True)
        take = _download if is_url(hub.address) else _take_from_folder
        digests = take(source, hub, files, kind, into)
        _check_shards(into, digests)
        _remove_stale_parts(into)
        facts = {path: {"sha256": digests[path], "bytes": (into / path).stat().st_size} for path in sorted(digests)}
        record = {**request, "files": facts}
        write_json(into / MARKER, record)
    return record


def _fetched_before(into: Path, request: Mapping[str, Any], named: Mapping[str, str]) -> dict[str, Any] | None:
    """The record of an earlier call for the same, where every file still has its size."""
    try:
        record: dict[str, Any] = json.loads((into / MARKER).read_text())
        whole = all((into / path).stat().st_size == facts["bytes"] for path, facts in record["files"].items())
        agreed = all(facts["sha256"] == named.get(path, facts["sha256"]) for path, facts in record["files"].items())
    except (OSError, ValueError, KeyError):
        return None
    return record if whole and agreed and all(record.get(key) == value for key, value in request.items()) else None


def _download(
    source: RepositoryConfig, hub: HubConfig, patterns: Sequence[str], kind: Kind, into: Path
) -> dict[str, str]:
    """File → sha256, after downloading what is not here yet."""
    address = hub.address.rstrip("/")
    with online(), explained(source, address, into):
        commit, listed = _listing(source, address, kind)
        wanted = _chosen(listed, patterns, source, f"{address} at {source.revision}")
        url = partial(hf_hub_url, source.repo, repo_type=kind, revision=commit, endpoint=address)
        transfer = Transfer(source.repo, wanted, into)
        _check_disk(into, transfer.missing, source.repo)
        return transfer.run(lambda file: url(file.path))


def _listing(source: RepositoryConfig, address: str, kind: Kind) -> tuple[str, list[RepositoryFile]]:
    """The whole commit and its files, with the digests that they must have."""
    api = HfApi(endpoint=address)
    info = api.repo_info(source.repo, repo_type=kind, revision=source.revision, timeout=_ANSWER_SECONDS)
    commit = str(info.sha)
    if not commit.startswith(source.revision):
        raise HubError(
            f"{source.repo}: the hub answers with commit {commit}, expected {source.revision}; "
            "pin the commit that you mean (`revision`, forty hexadecimal digits)"
        )
    listed = []
    for entry in api.list_repo_tree(source.repo, recursive=True, repo_type=kind, revision=commit):
        if isinstance(entry, RepoFile):
            theirs = entry.lfs.sha256 if entry.lfs else entry.blob_id
            listed.append(RepositoryFile(entry.path, entry.size, _agreed(source, entry.path, theirs)))
    return commit, listed


def _agreed(source: RepositoryConfig, path: str, theirs: str) -> str:
    """The digest that a file must have; a sha256 of the hub's that contradicts ours is found before any download."""
    ours = source.sha256.get(path)
    if ours and len(theirs) == SHA256_DIGITS and theirs != ours:
        raise HubError(
            f"{source.repo}: {path} has the sha256 {theirs} on the hub, expected {ours} (`sha256`); nothing was "
            "downloaded. Check which of the two is right before you change either"
        )
    return ours or theirs


def _chosen(
    listed: Sequence[RepositoryFile], patterns: Sequence[str], source: RepositoryConfig, where: str
) -> list[RepositoryFile]:
    """The files that the patterns ask for."""
    names = {file.path for file in listed}
    exact = {pattern for pattern in patterns if not set(pattern) & set("*?[")}
    missing = sorted((exact | source.sha256.keys()) - names)
    chosen = list(filter_repo_objects(listed, allow_patterns=list(patterns), key=lambda file: file.path))
    if missing or not chosen:
        raise HubError(
            f"{source.repo}: not found in {where}: {', '.join(missing or patterns)}; it has {len(names)} files, such "
            f"as {', '.join(sorted(names)[:5]) or 'none'}. Files may have moved: look there, or pin another revision"
        )
    for file in chosen:
        parts = PurePosixPath(file.path).parts
        if ".." in parts or parts[0] == "/":
            raise HubError(f"{source.repo}: {where} lists {file.path!r}, which leaves the folder; do not use it")
    return chosen


def _take_from_folder(
    source: RepositoryConfig, hub: HubConfig, patterns: Sequence[str], kind: Kind, into: Path
) -> dict[str, str]:
    """File → sha256, after linking or copying from a folder that has the repository."""
    folder = Path(hub.address).expanduser() / source.repo
    if not folder.is_dir():
        raise HubError(
            f"{source.repo}: {folder} is not a folder; expected the {kind}'s files in it (`hub.address` is "
            f"{hub.address}). Put them there, or set the address of a hub"
        )
    recorded = _recorded(folder, source)
    paths = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    listed = [
        RepositoryFile(path.as_posix(), (folder / path).stat().st_size, (recorded | source.sha256).get(path.as_posix()))
        for path in paths
        if not any(part.startswith(".") for part in path.parts) and path.as_posix() not in (MARKER, _RECORD)
    ]
    wanted = _chosen(listed, patterns, source, str(folder))
    if folder.stat().st_dev != into.stat().st_dev:
        _check_disk(into, sum(file.size - bytes_here(file, into) for file in wanted), source.repo)
    digests = {}
    with explained(source, str(folder), into):
        for file in wanted:
            digests[file.path], wrong = verified(folder / file.path, file)
            if wrong is not None:
                raise HubError(f"{folder / file.path}: {wrong}; replace it by a whole copy")
            _link(folder / file.path, into / file.path)
    return digests


def _recorded(folder: Path, source: RepositoryConfig) -> dict[str, str]:
    """The digests that a folder filled by :func:`fetch`, on this machine or another, knows of its files."""
    try:
        record = json.loads((folder / MARKER).read_text())
    except (OSError, ValueError):
        return {}
    if record["revision"] != source.revision:
        raise HubError(
            f"{source.repo}: {folder} holds commit {record['revision']}, expected {source.revision}; download that one "
            "there, or pin the commit that you have"
        )
    return {path: facts["sha256"] for path, facts in record["files"].items()}


def _link(held: Path, target: Path) -> None:
    """A hard link where the disk is the same, else a copy; either appears whole."""
    if target.exists() and target.samefile(held):
        return
    with atomic_write(target) as partial:
        try:
            os.link(held.resolve(), partial)
        except OSError:
            shutil.copyfile(held, partial)


def _check_disk(into: Path, needed: int, repo: str) -> None:
    free = shutil.disk_usage(into).free
    if needed > free:
        raise HubError(
            f"{into}: found {free / 1e9:.1f} GB of free disk, {repo} needs {needed / 1e9:.1f} GB more; free some, or "
            "set `hub.downloads` to a folder on a larger disk"
        )


def _check_shards(into: Path, digests: Mapping[str, str]) -> None:
    """A model's index names its shards; loading would find out only later that one is missing."""
    for index in (path for path in digests if path.endswith(".safetensors.index.json")):
        folder = PurePosixPath(index).parent
        shards = set(json.loads((into / index).read_text())["weight_map"].values())
        missing = sorted(shard for shard in shards if str(folder / shard) not in digests)
        if missing:
            raise HubError(
                f"{into / index} names {len(shards)} shards, not found: {', '.join(missing)}; add them to the "
                "folder that `hub.address` names, or download the repository again"
            )


def _remove_stale_parts(into: Path) -> None:
    """What was begun of another commit."""
    for part in into.rglob(".*.part"):
        part.unlink()
