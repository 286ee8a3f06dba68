"""A folder that holds the repository already, in the hub's place: linked or copied where it is what was pinned.

Four records can say what a folder holds: the ``fetched.json`` of this package, the folder's own git checkout, what
huggingface_hub notes beside the files that it downloads, and the name of a snapshot in its cache.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from iapo.artifacts.files import atomic_write
from iapo.config.sources import HubConfig, RepositoryConfig
from iapo.hub.files import MARKER, HubError, Kind, RepositoryFile, check_disk, chosen, verified
from iapo.hub.pointers import FETCH_CONTENT, pointer_kind

_log = logging.getLogger(__name__)

_METADATA = ".cache/huggingface/download"
"""Where huggingface_hub notes each file's commit and digest, below a folder that it downloads to."""

_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def take_from_folder(
    source: RepositoryConfig, hub: HubConfig, patterns: Sequence[str], kind: Kind, into: Path
) -> dict[str, str]:
    """Link or copy the files of a repository from the folder that ``hub.address`` names.

    Args:
        source: repository, commit, and digests that must be found.
        hub: the folder with ``<owner>/<name>/`` below it.
        patterns: of the files that are taken.
        kind: of the repository.
        into: folder that gets the files.

    Returns:
        File → sha256.

    Raises:
        HubError: where the folder is missing or of another commit, or a file of it is missing, a pointer or altered.
    """
    folder = Path(hub.address).expanduser() / source.repo
    if not folder.is_dir():
        raise HubError(
            f"{source.repo}: {folder} is not a folder; expected the {kind}'s files in it (`hub.address` is "
            f"{hub.address}). Put them there, or set the address of a hub"
        )
    _check_commit(folder, source)
    wanted = _wanted(folder, source, patterns, kind)
    if folder.stat().st_dev != into.stat().st_dev:
        check_disk(into, sum(file.size - file.bytes_here(into) for file in wanted), source.repo)
    digests = {}
    for file in wanted:
        digests[file.path] = _checked(folder, file)
        with atomic_write(into / file.path) as tmp:
            try:
                os.link((folder / file.path).resolve(), tmp)
            except OSError:  # the disk is another one
                shutil.copyfile(folder / file.path, tmp)
    return digests


def _wanted(folder: Path, source: RepositoryConfig, patterns: Sequence[str], kind: Kind) -> list[RepositoryFile]:
    """List the files that the patterns ask for, links to nothing too, each with the digest that it must have."""
    paths = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() or (path.is_symlink() and not path.exists())
    }
    expected = _recorded(folder, source) | source.sha256
    listed = [
        RepositoryFile(name, path.lstat().st_size if not path.exists() else path.stat().st_size, expected.get(name, ""))
        for name, path in paths.items()
        if "/." not in f"/{name}" and name not in (MARKER, "fetched.run.json")
    ]
    wanted = [
        file if file.digest else file._replace(digest=_noted_digest(folder, file.path, source, kind))
        for file in chosen(listed, patterns, source, str(folder))
    ]
    unknown = [file.path for file in wanted if not file.digest]
    if unknown:
        _log.warning(
            "%s: %s: nothing says what %d of %d files must contain (%s, ...), so they are taken as they are; name "
            "their digests in the source's `sha256` to have them checked",
            source.repo,
            folder,
            len(unknown),
            len(wanted),
            unknown[0],
        )
    return wanted


def _checked(folder: Path, file: RepositoryFile) -> str:
    """Verify a file of the folder; its sha256."""
    path = folder / file.path
    if kind := pointer_kind(path):
        size = path.lstat().st_size
        raise HubError(
            f"{path}: found a {kind} pointer of {size} bytes, expected the file that it stands for; run "
            f"`{FETCH_CONTENT[kind]}` in {folder}"
        )
    if not path.exists():
        raise HubError(f"{path}: found a link to {path.readlink()}, which is not there; replace it by a whole copy")
    sha256, wrong = verified(path, file)
    if wrong is not None:
        raise HubError(f"{path}: {wrong}; replace it by a whole copy")
    return sha256


def _check_commit(folder: Path, source: RepositoryConfig) -> None:
    """Refuse a git checkout, or a snapshot of huggingface_hub's cache, of another commit."""
    snapshot = folder.resolve()
    if snapshot.parent.name == "snapshots" and _DIGEST.fullmatch(snapshot.name):
        _refuse_other(snapshot.name, folder, source, "link the snapshot of that one there")
    commit = _checked_out(folder)
    if commit is not None:
        checkout = (
            f"run `git fetch origin {source.revision}`, `git checkout {source.revision}` and `git lfs pull` there"
        )
        _refuse_other(commit, folder, source, checkout)


def _refuse_other(commit: str, holder: Path, source: RepositoryConfig, what_to_do: str) -> None:
    # Either may be shortened.
    if not (commit.startswith(source.revision) or source.revision.startswith(commit)):
        raise HubError(
            f"{source.repo}: {holder} holds commit {commit}, expected {source.revision}; {what_to_do}, or pin the "
            "commit that you have (`revision`)"
        )


def _checked_out(folder: Path) -> str | None:
    """Read the commit of a git checkout; None where the folder is none, or keeps its branches elsewhere."""
    git = folder / ".git"
    try:
        if git.is_file():
            git = folder / git.read_text().removeprefix("gitdir:").strip()
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref:"):
            return head or None
        branch = head.removeprefix("ref:").strip()
        if (git / branch).is_file():
            return (git / branch).read_text().strip() or None
        packed = (git / "packed-refs").read_text().splitlines()
    except (OSError, ValueError):
        return None
    return next((line.split()[0] for line in packed if line.endswith(f" {branch}")), None)


def _recorded(folder: Path, source: RepositoryConfig) -> dict[str, str]:
    """Read the digests that a folder filled by this package, on this machine or another, knows of its files."""
    try:
        record = json.loads((folder / MARKER).read_text())
        revision, digests = str(record["revision"]), {path: facts["sha256"] for path, facts in record["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    _refuse_other(revision, folder, source, "download that one there")
    return digests


def _noted_digest(folder: Path, path: str, source: RepositoryConfig, kind: Kind) -> str:
    """Read what huggingface_hub noted when it downloaded a file: refuse another commit, return the digest or ''."""
    try:
        commit, digest, *_ = (folder / _METADATA / f"{path}.metadata").read_text().split()
    except (OSError, ValueError):
        return ""
    again = f"run `hf download {source.repo} --repo-type {kind} --revision {source.revision} --local-dir {folder}`"
    _refuse_other(commit, folder / path, source, again)
    return digest if _DIGEST.fullmatch(digest) else ""
