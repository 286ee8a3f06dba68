"""What a finished run took, from its records."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks.run_cost import FILE, cost_sentence, run_cost, take_cost


def record(path: Path, started: str, seconds: float, memory: int = 900) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    facts: dict[str, Any] = {"started": f"2026-01-01T{started}+00:00", "wall_seconds": seconds}
    machine = {"processor": "A processor", "cores": 2}
    path.write_text(json.dumps(facts | {"peak_memory_mb": memory, "hardware": machine}))


def test_time_is_that_in_which_any_job_ran(tmp_path: Path) -> None:
    run = tmp_path / "sparse"
    record(run / "a.run.json", "10:00:00", 60)
    record(run / "train/b.run.json", "10:00:30", 60, memory=1940)
    # Inside the first two; then one behind a pause of hours.
    record(run / "train/c.run.json", "10:00:40", 10)
    record(run / "d.run.json", "14:00:00", 90)
    found = run_cost(run)
    assert found == {"run": "sparse", "minutes": 3.0, "memory_gb": 1.9, "cores": "2", "processor": "A processor"}


def test_a_run_s_row_takes_the_place_of_its_earlier_one(tmp_path: Path) -> None:
    assert cost_sentence("sparse", tmp_path) == "How long the run took that is shown was not kept."
    for name, seconds in (("sparse", 60), ("mini", 120), ("sparse", 180)):
        record(tmp_path / f"runs/{name}/a.run.json", "10:00:00", seconds)
        take_cost(tmp_path / "runs" / name, tmp_path)
    assert dict(pd.read_csv(tmp_path / FILE)[["run", "minutes"]].to_numpy()) == {"mini": 2.0, "sparse": 3.0}
    assert "took 3 minutes on 2 cores (A processor), and its largest process 0.9 GB" in cost_sentence(
        "sparse", tmp_path
    )


def test_a_folder_without_records_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no run record"):
        run_cost(tmp_path)
