"""A clock that was set back: files that it left in the future. No torch."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from iapo.artifacts.files import files_below

_SKEW_SECONDS = 10.0
"""By how much a file server's clock may be ahead of this machine's."""


def settle_future_files(results: Path) -> str | None:
    """Date files from the future as made now.

    Snakemake ends where a job's output is older than its input. Beside an input from the future that is always so, and
    every run would end there until the clock has caught up.

    Args:
        results: folder of a run's results; may be absent.

    Returns:
        What was done, in one line; None where no file is from the future.
    """
    now = time.time()
    future = [(mtime, path) for mtime, path in _dated(results) if mtime > now + _SKEW_SECONDS]
    if not future:
        return None
    for _, path in future:
        with suppress(FileNotFoundError):
            os.utime(path, (now, now))
    ahead = (max(mtime for mtime, _ in future) - now) / 60
    return (
        f"{results}: found {len(future)} files from up to {ahead:.0f} min in the future, since the clock was set back; "
        "they count as made now, and what was made from them since then is made again"
    )


def _dated(results: Path) -> Iterator[tuple[float, Path]]:
    """Each file's time of change. This runs before it is known whether another run is at work in the folder."""
    for path in files_below(results):
        with suppress(FileNotFoundError):
            status = path.lstat()
            if stat.S_ISREG(status.st_mode):
                yield status.st_mtime, path
