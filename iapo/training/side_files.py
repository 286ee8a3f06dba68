"""Files that a finished run leaves in its run directory for later readers, and that no rule declares."""

from __future__ import annotations

import os
from pathlib import Path

from iapo.artifacts.file_facts import FileFacts, facts_of
from iapo.rollout.call_sampling import MISSES
from iapo.training.kept_rollouts import FOLDER


def side_files(record: Path, run_dir: Path) -> dict[str, FileFacts]:
    """Return what is known of the kept rollouts and the missed calls, for the run's record.

    Args:
        record: path of the run record, which is to be written.
        run_dir: the run directory, of a finished run.

    Returns:
        Path from the record's folder → size and digest.
    """
    files = [*sorted((run_dir / FOLDER).glob("*.parquet")), run_dir / MISSES]
    return {os.path.relpath(file, record.parent): facts_of(file) for file in files if file.exists()}
