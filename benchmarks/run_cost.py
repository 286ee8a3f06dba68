"""What a finished run took, from its run records: time, memory and the machine."""

from __future__ import annotations

from collections.abc import Hashable
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

from iapo.artifacts.files import atomic_write
from iapo.artifacts.run_record import RECORD_SUFFIX, read_record, records_below

FILE = "runs.csv"
"""Finished runs that are checked in, one a row, in ``results/reference``."""


def run_cost(run: Path) -> dict[str, object]:
    """Return a run's row of :data:`FILE`.

    Args:
        run: ``results/<profile>``.

    Returns:
        ``run``, its name; ``minutes``, in which at least one job ran, so that a pause of the run does not count;
        ``memory_gb``, of the largest process; ``cores`` and ``processor``.

    Raises:
        FileNotFoundError: if the folder has no run record.
        RecordError: for a run record that is not as it was written.
    """
    records = [read_record(path) for path in records_below(run)]
    if not records:
        raise FileNotFoundError(f"{run}: found no run record (*{RECORD_SUFFIX}), expected those of a finished run")
    spans = [(datetime.fromisoformat(each["started"]).timestamp(), float(each["wall_seconds"])) for each in records]
    machines = {(each["hardware"]["processor"], each["hardware"]["cores"]) for each in records}
    return {
        "run": run.name,
        "minutes": round(_covered([(start, start + seconds) for start, seconds in spans]) / 60, 1),
        "memory_gb": round(max(each["peak_memory_mb"] for each in records) / 1000, 1),
        "cores": " or ".join(sorted({str(cores) for _, cores in machines})),
        "processor": " or ".join(sorted({str(name) for name, _ in machines})),
    }


def take_cost(run: Path, reference: Path) -> None:
    """Write a run's row into the file of those that are checked in, in place of an earlier one of its name.

    Args:
        run: ``results/<profile>``.
        reference: folder of :data:`FILE`.
    """
    path = reference / FILE
    kept = [row for row in _rows(reference) if row["run"] != run.name]
    frame = pd.DataFrame([*kept, run_cost(run)]).sort_values("run")
    with atomic_write(path) as tmp:
        frame.to_csv(tmp, index=False, lineterminator="\n")


def cost_sentence(name: str, reference: Path) -> str:
    """Return what a checked-in run took, or that it is not known.

    Args:
        name: of the run.
        reference: folder of :data:`FILE`.
    """
    for row in _rows(reference):
        if row["run"] == name:
            return (
                f"The run that is shown took {row['minutes']:.0f} minutes on {row['cores']} cores "
                f"({row['processor']}), and its largest process {row['memory_gb']:.1f} GB of memory."
            )
    return "How long the run took that is shown was not kept."


def _rows(reference: Path) -> list[dict[Hashable, Any]]:
    path = reference / FILE
    return pd.read_csv(path).to_dict("records") if path.exists() else []


def _covered(spans: list[tuple[float, float]]) -> float:
    """Length of the union of intervals."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
