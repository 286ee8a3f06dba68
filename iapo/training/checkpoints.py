"""Files that a training run writes while it runs: per-step metrics and resumable checkpoints.

A run directory holds ``identity.json`` (what the run depends on), ``metrics.jsonl`` and ``checkpoints/``. The functions
here keep the three consistent when a run is killed, resumed or replaced by a different one.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path

from iapo.artifacts.files import atomic_write

_log = logging.getLogger(__name__)


class MetricsFile:
    """Per-step metrics as JSON lines, appended to during training and truncated when a run resumes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def append(self, row: dict[str, float]) -> None:
        """Append the metrics of one step.

        Args:
            row: metric name to value, with the step number under ``step``.
        """
        with self._path.open("a") as lines:
            lines.write(json.dumps(row) + "\n")

    def rows(self) -> list[dict[str, float]]:
        """Return the metrics of every step; a last line cut short by a kill is skipped."""
        if not self._path.exists():
            return []
        lines = self._path.read_text().splitlines()
        return [json.loads(line) for line in lines if line.endswith("}")]

    def truncate_after(self, step: int) -> None:
        """Delete the rows after ``step``, which a killed run wrote after its last checkpoint."""
        kept = [row for row in self.rows() if row["step"] <= step]
        self._path.write_text("".join(json.dumps(row) + "\n" for row in kept))


def metrics_file(run_dir: Path) -> MetricsFile:
    """Return the metrics file of a run directory."""
    return MetricsFile(run_dir / "metrics.jsonl")


def identity_file(run_dir: Path) -> Path:
    """Return the file that holds what a run directory's run depends on."""
    return run_dir / "identity.json"


def reset_if_stale(run_dir: Path, run: Mapping[str, object]) -> None:
    """Empty a run directory left behind by a different run.

    Resuming from that run's checkpoints would return its policy under the name of this run.

    Args:
        run_dir: the run directory, locked by :func:`iapo.artifacts.files.exclusive`.
        run: everything that the result of the run depends on, JSON-serialisable.
    """
    identity, wanted = identity_file(run_dir), json.loads(json.dumps(run))
    found = json.loads(identity.read_text()) if identity.exists() else {}
    if found == wanted:
        return
    leftovers = [path for path in run_dir.glob("*") if path.name != ".lock"]
    if leftovers:
        changed = ", ".join(name for name in wanted if found.get(name) != wanted[name])
        _log.info("%s: found a run that differs in %s; it is removed, and training starts over", run_dir, changed)
    for path in leftovers:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with atomic_write(identity) as tmp:
        tmp.write_text(json.dumps(wanted, indent=1))


def clean(run_dir: Path) -> None:
    """Delete incomplete checkpoints and the metrics written after the last complete one.

    Call it once, before any process starts to train.
    """
    for checkpoint in (run_dir / "checkpoints").glob("checkpoint-*"):
        if not is_whole(checkpoint):
            shutil.rmtree(checkpoint)
    metrics_file(run_dir).truncate_after(step_of(last_checkpoint(run_dir)))


def drop_checkpoints(run_dir: Path) -> None:
    """Delete the checkpoints and trial policies of a run whose results are written, and keep its metrics.

    Args:
        run_dir: of one run, or the folder of several.
    """
    for run in [run_dir, *run_dir.iterdir()]:
        for name in ("checkpoints", "average", "model"):
            if (run / name).is_dir():
                shutil.rmtree(run / name)


def is_whole(checkpoint: Path) -> bool:
    """Return whether a checkpoint is complete; transformers writes ``trainer_state.json`` last."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_text())
    except (OSError, ValueError):
        return False
    return True


def last_checkpoint(run_dir: Path) -> Path | None:
    """Return the latest checkpoint in a run directory, or None before the first one."""
    return max((run_dir / "checkpoints").glob("checkpoint-*"), key=step_of, default=None)


def step_of(checkpoint: Path | None) -> int:
    """Return the number of optimizer steps completed at a checkpoint; 0 for None."""
    return 0 if checkpoint is None else int(checkpoint.name.rpartition("-")[2])
