"""A clock that was set back: files that it left in the future. No torch."""

from __future__ import annotations

import os
import time
from pathlib import Path

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
    dated = [(path.lstat().st_mtime, path) for path in results.rglob("*") if path.is_file() and not path.is_symlink()]
    future = [(mtime, path) for mtime, path in dated if mtime > now + _SKEW_SECONDS]
    if not future:
        return None
    for _, path in future:
        os.utime(path, (now, now))
    ahead = (max(mtime for mtime, _ in future) - now) / 60
    return (
        f"{results}: found {len(future)} files from up to {ahead:.0f} min in the future, since the clock was set back; "
        "they count as made now, and what was made from them since then is made again"
    )
