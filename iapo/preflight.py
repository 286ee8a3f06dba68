"""What is checked before the first job, so that nothing is found out after hours. No torch."""

from __future__ import annotations

import difflib
import fcntl
import os
from collections.abc import Iterable
from pathlib import Path

from iapo.config import Config

_HELD: list[int] = []
"""Open file descriptors of the locks that this process holds until it ends."""


class PreflightError(RuntimeError):
    """The run cannot start; the message says what was found, what is needed and what to do."""


def check_methods(config: Config, known: Iterable[str]) -> None:
    """Every configured method, and what each variant is a variant of, has an entry in the table of methods."""
    names = sorted(known)
    variants = config.all_variants
    wanted = [variants[name].method if name in variants else name for name in [*config.methods, *config.ablated]]
    for method in wanted:
        if method not in names:
            near = difflib.get_close_matches(method, names, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise PreflightError(
                f"methods: found {method!r}; {hint}known methods: {', '.join(names)} (baselines/__init__.py)"
            )


def check_device(device: str) -> None:
    """A profile for a GPU needs one; said before anything is downloaded.

    Looks for the driver's device files, since importing torch would take seconds of every dry run.
    """
    if device == "cuda" and not any(Path("/dev").glob("nvidia[0-9]*")):
        raise PreflightError(
            "device: found no NVIDIA GPU on this machine (no /dev/nvidia*), the profile asks for `device: cuda`; "
            "run it on a GPU machine, or use the default profile (`mini`), which runs on a CPU"
        )


def claim_results(directory: Path) -> None:
    """Hold ``directory`` for this process: two runs at once would overwrite each other's files.

    The system frees the lock when the process ends, however it ends.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / ".run.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 20).decode() or "unknown"
        os.close(descriptor)
        raise PreflightError(
            f"{directory} is in use by another run (process {holder}); wait for it to end, or stop it"
        ) from None
    os.truncate(descriptor, 0)
    os.write(descriptor, str(os.getpid()).encode())
    _HELD.append(descriptor)
