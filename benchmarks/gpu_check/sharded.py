"""Check (g): FSDP2 as runs are started with it, in one process: killed, resumed, saved, loaded; and its memory."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_check.attribution import TRUSTED
from benchmarks.gpu_check.finding import Bound, Finding
from benchmarks.gpu_check.scale import Scale
from benchmarks.gpu_check.shapes import start_directory
from benchmarks.gpu_check.steps import rollout_lengths
from benchmarks.gpu_check.training_job import TrainingJob, run_config
from iapo.config.schema import load_config
from iapo.jobs.launch import launcher, launcher_environment
from iapo.jobs.memory import training_memory
from iapo.models.interfaces import QwenVL
from iapo.models.loading import load_model
from iapo.training.checkpoints import clean, metrics_file

_STEPS, _SAVED, _KILLED = 5, 2, 4
_SAME = 1e-2
"""Largest relative difference of a gradient's norm between a step and the same step behind a resume: on a GPU the order
of sums differs, and AdamW makes more of it; on a CPU the two are equal."""


def resume(scale: Scale, device: torch.device, work: Path) -> Finding:
    """Train a shallow student, kill it two steps behind a checkpoint and resume: it takes these steps again alike.

    The second of them depends on the optimizer's moments too.
    """
    layers = min(scale.shallow_layers, 2)
    size = replace(scale.student, layers=layers, vision_layers=layers)
    start = start_directory(work, size, scale, device.type)
    config = _config(scale, device.type, {"steps": _STEPS, "save_every": _SAVED, "learning_rate": 1e-3})
    folder = work / "killed"
    shutil.rmtree(folder, ignore_errors=True)
    job = _job(scale, start, folder, config, killed_after=_KILLED)
    killed = _launch(job, work)
    before = metrics_file(folder).rows()
    clean(folder)
    if _launch(replace(job, killed_after=None), work):
        raise RuntimeError(f"the run of {folder} did not resume; the first error in the log says why")
    after = metrics_file(folder).rows()
    again = [(one, other) for one in before[_SAVED:] for other in after if one["step"] == other["step"]]
    apart = max((abs(a["grad_norm"] - b["grad_norm"]) / a["grad_norm"] for a, b in again), default=math.inf)
    changed = _distance(load_model(job.policy)[0], load_model(start)[0])
    shutil.rmtree(folder)
    steps = [row["step"] for row in after]
    return Finding(
        {
            "parameters": size.parameters,
            "exit_status_of_the_kill": killed,
            "steps_before": [row["step"] for row in before],
            "steps_after": steps,
            "seconds_a_step": after[-1]["seconds/step"],
            "gradients_apart": apart,
            "saved_policy_from_start": changed,
        },
        {
            "gradients of repeated steps apart": Bound(apart, _SAME),
            "steps missing or repeated": Bound(float(steps != list(range(1, _STEPS + 1))), 0.0),
            "not killed": Bound(float(killed == 0 or len(before) != _KILLED), 0.0),
            "saved policy is the start": Bound(float(changed == 0), 0.0),
        },
    )


def _distance(model: QwenVL, other: QwenVL) -> float:
    """Return the norm of the difference of two models' weights."""
    others = other.state_dict()
    return math.hypot(*((value - others[name]).norm().item() for name, value in model.state_dict().items()))


def full_weights(scale: Scale, device: torch.device, work: Path) -> Finding:
    """Train all weights of the student for two steps, and hold the peak of memory against the estimate's formula.

    The process is killed before it would write a checkpoint of 45 GB.
    """
    start = start_directory(work, scale.student, scale, device.type)
    config = _config(scale, device.type, {"steps": 2}, {"checkpoint_activations": True})
    job = _job(scale, start, work / "full", config, killed_after=2)
    shutil.rmtree(job.folder, ignore_errors=True)
    _launch(job, work)
    rows = metrics_file(Path(job.folder)).rows()
    shutil.rmtree(job.folder)
    if len(rows) != 2:
        raise RuntimeError(f"found the metrics of {len(rows)} steps, expected 2; the log above says why")
    settings = load_config(config)
    longest = rollout_lengths(scale, scale.turn_tokens)
    expected = training_memory(scale.student, settings.hardware, settings.train, longest)
    peak = rows[-1]["memory/peak_gb"]
    return Finding(
        {"peak_gb": peak, "peak_gb_estimated": expected, "seconds_a_step": rows[-1]["seconds/step"]},
        {"peak over the estimate": Bound(peak / expected, TRUSTED)},
    )


def _config(scale: Scale, device: str, train: dict[str, Any], hardware: dict[str, Any] | None = None) -> dict[str, Any]:
    return run_config(scale, device, train=train, hardware={"strategy": "fsdp2", **(hardware or {})})


def _job(
    scale: Scale, start: Path, folder: Path, config: dict[str, Any], killed_after: int | None = None
) -> TrainingJob:
    return TrainingJob(scale.name, str(start), str(folder), config, killed_after=killed_after)


def _launch(job: TrainingJob, work: Path) -> int:
    """Run a job as runs of several processes are started, and return the launcher's exit status."""
    described = job.write(work / f"{Path(job.folder).name}.job.json")
    config = load_config(job.config)
    command = [sys.executable, "-m", *launcher(config), "-m", "benchmarks.gpu_check.training_job", str(described)]
    return subprocess.run(command, check=False, env={**os.environ, **launcher_environment(config)}).returncode
