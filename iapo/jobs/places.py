"""Paths that shells and libraries take as they are: the clone's own, and that of the caches below HOME. No torch."""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
from pathlib import Path

from iapo.jobs.preflight import PreflightError

CACHES = Path(".snakemake/caches")
"""Where caches go, below the clone, when they cannot go below HOME."""


def check_clone(clone: Path) -> None:
    """Refuse a path of the clone that Snakemake cannot work in; most of what a shell reads is no obstacle.

    Args:
        clone: folder of the clone.

    Raises:
        PreflightError: where the path has braces, which Snakemake takes for a wildcard, a line break, or bytes that are
            not UTF-8.
    """
    path = str(clone.absolute())
    found = [repr(character) for character in "{}\n" if character in path]
    try:
        path.encode()
    except UnicodeEncodeError:
        found.append("bytes that are not UTF-8")
    if found:
        raise PreflightError(
            f"the clone's path {path!r} has {', '.join(found)}, which Snakemake cannot work with; move or rename the "
            "folder"
        )


def quote_interpreter() -> None:
    """Let jobs run in a clone whose path has a space, an apostrophe or another character that a shell reads.

    Snakemake 9.27 puts ``sys.executable`` unquoted into the shell command of every job and script (its issues 2981 and
    3211), so this process gets a quoted one. What starts other processes without a shell must not run in it.
    """
    # A quoted path does not exist, so that it is not quoted twice.
    if Path(sys.executable).exists():
        sys.executable = shlex.quote(sys.executable)


def use_writable_caches(clone: Path) -> None:
    """Send the caches of all libraries to the clone where they cannot be written below HOME.

    Sets, where the user has not, ``XDG_CACHE_HOME``, ``HF_HOME`` and ``TRITON_HOME``, from which the libraries derive
    their own; call it before they are imported. Processes that are started inherit them. A token of the hub is still
    read below HOME.

    Args:
        clone: folder of the clone.
    """
    try:
        below_home = Path.home() / ".cache"
    except RuntimeError:  # a container's user that the system does not know
        below_home = None
    if below_home and _writable(below_home):
        return
    named = os.environ.get("XDG_CACHE_HOME")
    caches = Path(named) if named and _writable(Path(named)) else clone.absolute() / CACHES
    os.environ["XDG_CACHE_HOME"] = str(caches)
    # lmms-eval and Triton do not look at XDG_CACHE_HOME.
    os.environ.setdefault("HF_HOME", str(caches / "huggingface"))
    os.environ.setdefault("TRITON_HOME", str(caches))
    if below_home:
        os.environ.setdefault("HF_TOKEN_PATH", str(below_home / "huggingface/token"))


def use_utf8() -> None:
    """Let all processes that are started read and write UTF-8, whatever the locale says."""
    os.environ["PYTHONUTF8"] = "1"


def _writable(folder: Path) -> bool:
    # Permissions say too little: root passes them all, and /proc takes no file whatever they are.
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
