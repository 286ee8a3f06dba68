"""Files that a training run writes while it runs: per-step metrics and resumable checkpoints.

A run directory holds ``identity.json`` (what the run depends on), ``metrics.jsonl`` and ``checkpoints/``. The functions
here keep the three consistent when a run is killed, damaged, resumed or replaced by a different one.

Once all of a checkpoint's files are there, a list of them is written beside them: what each was, and the metrics until
its step. A checkpoint without the list was cut short; one that differs from it is damaged. Neither is resumed.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from iapo.artifacts.file_facts import FileFacts, difference, facts_of
from iapo.artifacts.files import atomic_write, digest, write_json

FINISHED = "finished"
"""Folder in a run directory with the policy that the run came to (:mod:`iapo.training.finished`)."""

_LIST = "files.json"
"""Name of the list of a checkpoint's files, in its folder."""

_HASHED_BYTES = 2**30
"""Files up to this size are listed with their digest. Larger ones go by their size alone: hashing the optimizer of
billions of weights at every save would hold up all GPUs."""

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
        """Return the metrics of every step; a line that was cut short or is damaged is skipped."""
        if not self._path.exists():
            return []
        return [row for line in self._path.read_bytes().splitlines() if (row := _row(line))]

    def truncate_after(self, step: int) -> None:
        """Delete the rows after ``step``, which a killed run wrote after its last checkpoint."""
        with atomic_write(self._path) as tmp:
            tmp.write_text(self._text_until(step))

    def digest_until(self, step: int) -> str:
        """Return a digest of the rows up to ``step``."""
        return digest(self._text_until(step).encode())

    def _text_until(self, step: int) -> str:
        return "".join(json.dumps(row) + "\n" for row in self.rows() if row["step"] <= step)


def _row(line: bytes) -> dict[str, float] | None:
    """Return the metrics that a line holds; None where it does not hold a whole row."""
    row = _json_object(line)
    return row if isinstance(row.get("step"), int) else None


def _json_object(text: bytes) -> dict[str, Any]:
    """Return the object that a text holds; an empty one where it holds none."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


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
    found = _json_object(identity.read_bytes()) if identity.exists() else {}
    if found == wanted:
        return
    leftovers = [path for path in run_dir.glob("*") if path.name != ".lock"]
    if leftovers:
        changed = ", ".join(name for name in wanted if found.get(name) != wanted[name])
        what = f"a run that differs in {changed}" if found else f"no run that {identity.name} describes"
        _log.info("%s: found %s; what is there is removed, and training starts over", run_dir, what)
    for path in leftovers:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with atomic_write(identity) as tmp:
        tmp.write_text(json.dumps(wanted, indent=1))


def seal(run_dir: Path, step: int) -> None:
    """List the files of the checkpoint of a step, once every process has written its own.

    Args:
        run_dir: the run directory.
        step: optimizer steps completed at the checkpoint.
    """
    checkpoint = checkpoint_of(run_dir, step)
    files = [path for path in sorted(checkpoint.rglob("*")) if path.is_file() and path.name != _LIST]
    # The mean of the last steps' weights is part of where a run is.
    files += [path for path in [run_dir / "average" / f"{step}.safetensors"] if path.exists()]
    facts = {str(path.relative_to(run_dir)): _facts(path) for path in files}
    write_json(checkpoint / _LIST, {"files": facts, "metrics": metrics_file(run_dir).digest_until(step)})


def _facts(file: Path) -> FileFacts:
    size = file.stat().st_size
    return facts_of(file) if size <= _HASHED_BYTES else {"bytes": size}


def clean(run_dir: Path) -> None:
    """Delete checkpoints that are cut short or damaged, and the metrics written after the last whole one.

    Call it once, before any process starts to train.
    """
    for checkpoint in sorted((run_dir / "checkpoints").glob("checkpoint-*"), key=step_of):
        if damage := damage_of(checkpoint):
            _log.info("%s; it is removed, and training goes on from an earlier step", damage)
            shutil.rmtree(checkpoint)
    metrics_file(run_dir).truncate_after(step_of(last_checkpoint(run_dir)))


def drop_checkpoints(run_dir: Path) -> None:
    """Delete the checkpoints and trial policies of a run whose results are written, and keep its metrics.

    Args:
        run_dir: of one run, or the folder of several.
    """
    several = list(run_dir.iterdir())
    # A single run keeps its policy; those of trials are needed no more.
    names = [(run, name) for run in [run_dir, *several] for name in ("checkpoints", "average", "model")]
    for run, name in [*names, *((run, FINISHED) for run in several)]:
        if (run / name).is_dir():
            shutil.rmtree(run / name)


def damage_of(checkpoint: Path) -> str | None:
    """Return what is wrong with a checkpoint, as a part of a sentence; None if it can be resumed.

    Args:
        checkpoint: its folder, below ``checkpoints`` of a run directory.
    """
    try:
        return _damage(checkpoint)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        return (
            f"{checkpoint / _LIST}: found no list of files that can be read ({error!r}), expected the one written last"
        )


def _damage(checkpoint: Path) -> str | None:
    run_dir = checkpoint.parent.parent
    written = json.loads((checkpoint / _LIST).read_bytes())
    for name, facts in written["files"].items():
        if found := difference(run_dir / name, facts):
            return f"{run_dir / name}: {found}"
    if metrics_file(run_dir).digest_until(step_of(checkpoint)) != written["metrics"]:
        return f"{run_dir / 'metrics.jsonl'}: found other rows than {checkpoint.name} was written with"
    return None


def last_checkpoint(run_dir: Path) -> Path | None:
    """Return the latest checkpoint in a run directory, or None before the first one."""
    return max((run_dir / "checkpoints").glob("checkpoint-*"), key=step_of, default=None)


def checkpoint_of(run_dir: Path, step: int) -> Path:
    """Return the folder of the checkpoint of a step."""
    return run_dir / "checkpoints" / f"checkpoint-{step}"


def step_of(checkpoint: Path | None) -> int:
    """Return the number of optimizer steps completed at a checkpoint; 0 for None."""
    return 0 if checkpoint is None else int(checkpoint.name.rpartition("-")[2])
