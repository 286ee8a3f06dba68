"""A training's metrics in a tracker, through TRL's own ``report_to``: its arguments, and the tracker's environment.

Nothing is sent from the machine unless the user's environment says so. No torch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from iapo.config.method import Tracker

UNTRACKED: Mapping[str, Any] = {"report_to": "none"}
"""TRL's arguments of a training that no tracker is told of."""


@contextmanager
def tracked(tracker: Tracker | None, name: str, *, project: str, folder: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the arguments of TRL's trainer by which a training is reported while the block runs.

    Args:
        tracker: to report to; None reports to none.
        name: of the run.
        project: that the tracker shows its runs in.
        folder: gets the tracker's files, where the user's environment names no other one.
    """
    if tracker is None:
        yield UNTRACKED
        return
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    for variable, value in _environment(project, folder).items():
        os.environ.setdefault(variable, value)
    # One folder a run, else TensorBoard takes all of them for one; several may train in this process.
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(folder / "tensorboard" / name)
    try:
        yield {"report_to": tracker, "run_name": name, "project": project}
    finally:
        wandb: Any = sys.modules.get("wandb")
        # TRL ends the others' runs itself; this one would get the next training's metrics.
        if tracker == "wandb" and wandb is not None and wandb.run is not None:
            wandb.finish()


def _environment(project: str, folder: Path) -> dict[str, str]:
    """Variable → value, for trackers that stay on this machine and keep their files in one folder."""
    return {
        "WANDB_MODE": "offline",
        "WANDB_PROJECT": project,
        "WANDB_DIR": str(folder),
        # It would take the process's output, which the job's log has.
        "WANDB_CONSOLE": "off",
        "TRACKIO_DIR": str(folder / "trackio"),
    }
