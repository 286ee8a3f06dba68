"""The bytes of a repository's files: received side by side, gone on with after an interruption, verified.

huggingface_hub streams a file. Its own `snapshot_download` forgets what a killed run had of one, which is hours where
it is large; here partial files are kept and go on by a Range request.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import httpx
from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers
from huggingface_hub.utils.sha import git_hash

from iapo.config_sources import RepositoryConfig
from iapo.progress import Progress
from iapo.provenance import sha256_file

SHA256_DIGITS = 64
_TOGETHER = 8
"""Files in transfer at a time; a data set may have thousands of small ones."""
_MB = 10**6


class HubError(RuntimeError):
    """A repository is not here as it should be; the message says what was found, expected and to be done."""


@dataclass(frozen=True)
class RepositoryFile:
    """One file of the repository."""

    path: str
    """Relative, with slashes."""
    size: int
    """Bytes."""
    digest: str | None
    """sha256 or git's blob sha1 that it must have; None where nobody says."""

    @property
    def partial_name(self) -> str:
        """Names the content too, so that a file of another commit is never continued with this one's bytes."""
        return f".{PurePosixPath(self.path).name}.{(self.digest or '')[:12]}.part"


def bytes_here(file: RepositoryFile, into: Path) -> int:
    """What an earlier call left of a file."""
    target = into / file.path
    part = target.with_name(file.partial_name)
    if target.is_file() and target.stat().st_size == file.size:
        return file.size
    return part.stat().st_size if part.is_file() and part.stat().st_size <= file.size else 0


class Transfer:
    """Downloads some files of a repository into a folder."""

    def __init__(self, repo: str, files: Sequence[RepositoryFile], into: Path) -> None:
        self._repo, self._files, self._into = repo, files, into
        self._held = sum(bytes_here(file, into) for file in files)
        self._total = sum(file.size for file in files)
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._headers = build_hf_headers() | {"accept-encoding": "identity"}

    @property
    def missing(self) -> int:
        """Bytes that are not here yet."""
        return self._total - self._held

    def run(self, url: Callable[[RepositoryFile], str]) -> dict[str, str]:
        """File → sha256, of all files. The first failure stops the others.

        Args:
            url: where a file is.
        """
        digests = {}
        start = self._held // _MB
        with (
            Progress(self._total // _MB, f"download {self._repo}", unit="MB", start=start) as self._progress,
            ThreadPoolExecutor(_TOGETHER) as pool,
        ):
            pending = {pool.submit(self._obtain, file, url(file)): file for file in self._files}
            try:
                for done in as_completed(pending):
                    digests[pending[done].path] = done.result()
            except BaseException:
                self._stopped.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return digests

    def count(self, received: int) -> None:
        """Count bytes as they arrive; negative where the server makes a download start over."""
        if self._stopped.is_set():
            raise HubError("stopped with the others")
        with self._lock:
            before, self._held = self._held // _MB, self._held + received
            if self._held // _MB != before:
                self._progress.update(self._held // _MB - before)

    def _obtain(self, file: RepositoryFile, url: str) -> str:
        target = self._into / file.path
        if target.is_file():
            sha256, wrong = verified(target, file)
            if wrong is None:
                return sha256
            self.count(-bytes_here(file, self._into))
            target.unlink()
            self.count(bytes_here(file, self._into))
        part = target.with_name(file.partial_name)
        part.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab") as content:
            if content.tell() > file.size:
                content.truncate(0)
            http_get(
                url,
                content,
                resume_size=content.tell(),
                headers=self._headers,
                expected_size=file.size,
                tqdm_class=partial(_Bar, self),  # type: ignore[arg-type]
            )
        sha256, wrong = verified(part, file)
        if wrong is not None:
            raise HubError(f"{_set_aside(part, target)}: {wrong}; the same command downloads this file again")
        os.replace(part, target)
        return sha256


class _Bar:
    """What :func:`http_get` takes for a progress bar."""

    def __init__(self, transfer: Transfer, **_: Any) -> None:
        self._transfer = transfer

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, received: int) -> None:
        """Called for every chunk."""
        self._transfer.count(received)


def verified(path: Path, file: RepositoryFile) -> tuple[str, str | None]:
    """A file's sha256 and, where its content is not the expected one, what is wrong with it."""
    sha256 = sha256_file(path)
    if file.digest is None:
        return sha256, None
    large = len(file.digest) == SHA256_DIGITS
    found = sha256 if large else git_hash(path.read_bytes())
    if found == file.digest:
        return sha256, None
    return sha256, f"found {'sha256' if large else 'git blob'} {found}, expected {file.digest}"


def _set_aside(bad: Path, target: Path) -> Path:
    aside = target.with_name(f"{target.name}.bad")
    os.replace(bad, aside)
    return aside


@contextmanager
def online() -> Iterator[None]:
    """Let huggingface_hub use the network, which jobs for a CPU switch off for everything else."""
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = False
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


@contextmanager
def explained(source: RepositoryConfig, address: str, into: Path) -> Iterator[None]:
    """Turn what can go wrong into one message each."""
    what = f"{source.repo} at {source.revision}"
    kept = f"what was downloaded is kept in {into}, and the same command goes on from there"
    try:
        yield
    except (RevisionNotFoundError, RemoteEntryNotFoundError) as error:
        missing = (
            "no such revision" if isinstance(error, RevisionNotFoundError) else f"no file {error.response.url.path}"
        )
        raise HubError(f"{what}: {address} says: {missing} (404); it was moved or removed: pin another one") from error
    except HfHubHTTPError as error:
        raise HubError(f"{what}: {_refusal(error, address)}; {kept}") from error
    except httpx.TransportError as error:
        raise HubError(
            f"{what}: {address} cannot be reached, or the connection broke ({error or type(error).__name__}); check "
            f"the network, or set `hub.address` to a folder with a copy; {kept}"
        ) from error
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise HubError(
                f"{what}: the disk of {into} is full; free some, or set `hub.downloads` to a larger one; {kept}"
            ) from error
        raise HubError(f"{what}: {error}; {kept}") from error


def _refusal(error: HfHubHTTPError, address: str) -> str:
    status = error.response.status_code
    if isinstance(error, GatedRepoError) or status == 403:
        return (
            f"{address} refuses it ({status}): its owners must grant access. Accept their terms on its page, then log "
            "in with `.venv/bin/hf auth login`, or set HF_TOKEN"
        )
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"{address} finds no such repository ({status}): check the name; if it is private, log in with "
            "`.venv/bin/hf auth login`, or set HF_TOKEN"
        )
    return f"{address} answered with status {status}: try again later"
