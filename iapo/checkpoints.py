"""What a training run leaves while it runs: figures by step and resumable checkpoints."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from iapo.provenance import atomic_write

MISSES = "misses.jsonl"
"""In a run's work folder: calls that the teacher's cache had no row of its own for."""


class MetricsFile:
    """Figures by step, one JSON object a line; appended while training, cut back when it resumes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def append(self, row: dict[str, float]) -> None:
        """Add one step's figures."""
        with self._path.open("a") as lines:
            lines.write(json.dumps(row) + "\n")

    def rows(self) -> list[dict[str, float]]:
        """Every whole line; a line cut off by a kill is left out."""
        if not self._path.exists():
            return []
        lines = self._path.read_text().splitlines()
        return [json.loads(line) for line in lines if line.endswith("}")]

    def truncate_after(self, step: int) -> None:
        """Drop what a killed run had written past its last checkpoint."""
        kept = [row for row in self.rows() if row["step"] <= step]
        self._path.write_text("".join(json.dumps(row) + "\n" for row in kept))


def metrics_file(work: Path) -> MetricsFile:
    """The figures of the run with this work folder."""
    return MetricsFile(work / "metrics.jsonl")


def claim(work: Path, run: Mapping[str, Any]) -> None:
    """Empty a work folder that another run left: resumed, it would pass that run's policy off as this one's.

    Args:
        work: the run's work folder, held by :func:`iapo.provenance.exclusive`.
        run: all that decides what the run comes to, as JSON has it.
    """
    identity, wanted = work / "identity.json", json.loads(json.dumps(run))
    found = json.loads(identity.read_text()) if identity.exists() else {}
    if found == wanted:
        return
    left = [path for path in work.glob("*") if path.name != ".lock"]
    if left:
        changed = ", ".join(name for name in wanted if found.get(name) != wanted[name])
        print(f"{work}: found a run that differs in {changed}; it is removed, and training starts over", flush=True)
    for path in left:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with atomic_write(identity) as partial:
        partial.write_text(json.dumps(wanted, indent=1))


def clean(work: Path) -> None:
    """Remove what a killed run left half made; called once, before any process trains."""
    for checkpoint in (work / "checkpoints").glob("checkpoint-*"):
        if not is_whole(checkpoint):
            shutil.rmtree(checkpoint)
    metrics_file(work).truncate_after(step_of(last_checkpoint(work)))


def is_whole(checkpoint: Path) -> bool:
    """Whether all of a checkpoint was written: transformers writes ``trainer_state.json`` last."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_text())
    except (OSError, ValueError):
        return False
    return True


def last_checkpoint(work: Path) -> Path | None:
    """The latest checkpoint of the run with this work folder; None before the first."""
    return max((work / "checkpoints").glob("checkpoint-*"), key=step_of, default=None)


def step_of(checkpoint: Path | None) -> int:
    """Steps that a checkpoint has behind it."""
    return 0 if checkpoint is None else int(checkpoint.name.rpartition("-")[2])
