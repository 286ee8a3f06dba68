"""The policy of a finished run, kept in its run directory as links to the same files, which take no room of their own.

A job that is given again finds its outputs removed by Snakemake, as where one file among them was damaged, or where a
cluster runs a job twice. The checkpoints of pretrained models are gone by then, so that all would be trained again.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

from iapo.artifacts.file_facts import difference, facts_of
from iapo.artifacts.files import atomic_directory, write_json
from iapo.training.checkpoints import FINISHED, metrics_file

_LIST = "files.json"
"""Facts on each file of the policy, and a digest of the run's metrics."""

_log = logging.getLogger(__name__)


def keep_policy(run_dir: Path, output: Path) -> None:
    """Link the files of a finished run's policy into its run directory; leave it where the file system has no links.

    Args:
        run_dir: the run directory, locked.
        output: pretrained directory of the policy.
    """
    try:
        with atomic_directory(run_dir / FINISHED) as tmp:
            facts = {path.name: facts_of(path) for path in sorted(output.iterdir())}
            for name in facts:
                os.link(output / name, tmp / name)
            write_json(tmp / _LIST, {"files": facts, "metrics": _metrics_digest(run_dir)})
    except OSError as error:
        _log.info("%s: the policy is not kept twice: %s", run_dir, error)


def take_back(run_dir: Path, output: Path) -> bool:
    """Put the policy of a finished run where it belongs, unless a file of it or of the metrics is missing or damaged.

    Args:
        run_dir: the run directory, locked, and of the very run that is asked for.
        output: pretrained directory to write, atomically.

    Returns:
        Whether it was there and whole, so that nothing is left to train.
    """
    kept = run_dir / FINISHED
    try:
        written = json.loads((kept / _LIST).read_bytes())
        whole = written["metrics"] == _metrics_digest(run_dir)
        whole = whole and not any(difference(kept / name, facts) for name, facts in written["files"].items())
    except (OSError, ValueError, TypeError, KeyError):
        return False
    if not whole:
        return False
    with atomic_directory(output) as tmp:
        for name in written["files"]:
            os.link(kept / name, tmp / name)
    _log.info("%s: the run is finished already; its policy is taken from there", run_dir)
    return True


def _metrics_digest(run_dir: Path) -> str:
    rows = metrics_file(run_dir).rows()
    return metrics_file(run_dir).digest_until(int(rows[-1]["step"]) if rows else 0)
