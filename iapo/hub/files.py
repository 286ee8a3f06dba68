"""One file of a repository: what it must contain, whether it does, and which files a request selects."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from huggingface_hub.utils import filter_repo_objects
from huggingface_hub.utils.sha import git_hash

from iapo.artifacts.files import sha256_file
from iapo.config.sources import RepositoryConfig
from iapo.hub.pointers import pointer_kind

MARKER = "fetched.json"
"""Written last: where it is, everything that it names is there and verified."""

Kind = Literal["model", "dataset"]


class HubError(RuntimeError):
    """A repository is not here as it should be; the message says what was found, expected and to be done."""


class RepositoryFile(NamedTuple):
    """One file of the repository."""

    path: str
    """Relative, with slashes."""
    size: int
    """Bytes."""
    digest: str
    """sha256 or git's blob sha1 that it must have; empty where nobody says."""

    def part(self, into: Path) -> Path:
        """Name the partial file, by content too: it is never continued with the bytes of another commit."""
        target = into / self.path
        return target.with_name(f".{target.name}.{self.digest[:12]}.part")

    def bytes_here(self, into: Path) -> int:
        """Count what an earlier call left of the file."""
        target, part = into / self.path, self.part(into)
        if target.is_file() and target.stat().st_size == self.size:
            return self.size
        return part.stat().st_size if part.is_file() and part.stat().st_size <= self.size else 0


def verified(path: Path, file: RepositoryFile) -> tuple[str, str | None]:
    """Compute a file's sha256 and say, where its content is not the expected one, what is wrong with it."""
    sha256 = sha256_file(path)
    if kind := pointer_kind(path):
        return sha256, f"found a {kind} pointer of {path.stat().st_size} bytes, expected the file that it stands for"
    algorithm = "git blob" if len(file.digest) == 40 else "sha256"
    found = git_hash(path.read_bytes()) if algorithm == "git blob" else sha256
    wrong = f"found {algorithm} {found}, expected {file.digest}" if file.digest and found != file.digest else None
    return sha256, wrong


def chosen(
    listed: Sequence[RepositoryFile], patterns: Sequence[str], source: RepositoryConfig, where: str
) -> list[RepositoryFile]:
    """Select the files that the patterns ask for.

    Raises:
        HubError: where a file without a wildcard, or any file at all, is missing, or a path leaves the folder.
    """
    names = {file.path for file in listed}
    exact = {pattern for pattern in patterns if not set(pattern) & set("*?[")}
    missing = sorted((exact | source.sha256.keys()) - names)
    selected = list(filter_repo_objects(listed, allow_patterns=list(patterns), key=lambda file: file.path))
    if missing or not selected:
        raise HubError(
            f"{source.repo}: not found in {where}: {', '.join(missing or patterns)}; it has {len(names)} files, such "
            f"as {', '.join(sorted(names)[:5]) or 'none'}. Files may have moved: look there, or pin another revision"
        )
    for file in selected:
        if ".." in PurePosixPath(file.path).parts or file.path.startswith("/"):
            raise HubError(f"{source.repo}: {where} lists {file.path!r}, which leaves the folder; do not use it")
    return selected


def check_disk(into: Path, needed: int, repo: str) -> None:
    """Refuse to begin what does not fit; huggingface_hub only warns."""
    free = shutil.disk_usage(into).free
    if needed > free:
        raise HubError(
            f"{into}: found {free / 1e9:.1f} GB of free disk, {repo} needs {needed / 1e9:.1f} GB more; free some, or "
            "set `hub.downloads` to a folder on a larger disk"
        )
