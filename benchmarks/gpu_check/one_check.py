"""The process of one check: ``python -m benchmarks.gpu_check.one_check NAME SCALE FOLDER RESULT``."""

from __future__ import annotations

import sys
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_check.checks import CHECKS
from benchmarks.gpu_check.finding import SkippedCheck
from benchmarks.gpu_check.scale import SCALES
from iapo.artifacts.files import write_json


def outcome(name: str, scale: str, work: Path) -> dict[str, Any]:
    """Run a check and return its ``status`` with figures, bounds, or the reason why there are none."""
    check = next(each for each in CHECKS if each.name == name)
    device = torch.device("cuda" if torch.cuda.is_available() and scale == "real" else "cpu")
    try:
        found = check.run(SCALES[scale], device, work)
    except SkippedCheck as reason:
        return {"status": "skipped", "reason": str(reason)}
    except Exception as error:
        traceback.print_exc()
        return {"status": "failed", "reason": f"{type(error).__name__}: {error}"}
    kept = all(bound.kept for bound in found.bounds.values())
    bounds = {name: asdict(bound) for name, bound in found.bounds.items()}
    return {"status": "passed" if kept else "failed", "figures": found.figures, "bounds": bounds}


if __name__ == "__main__":
    _, checked, at_scale, folder, result = sys.argv
    write_json(Path(result), outcome(checked, at_scale, Path(folder)))
