"""Check (g): FSDP2 as runs are started with it, in one process: killed, resumed, saved, loaded; and its memory."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_check.finding import Bound, Finding
from benchmarks.gpu_check.scale import Scale
from benchmarks.gpu_check.shapes import start_directory
from benchmarks.gpu_check.steps import rollout_lengths
from benchmarks.gpu_check.training_job import TrainingJob, run_config
from iapo.config.schema import load_config
from iapo.jobs.costs import training_memory
from iapo.jobs.launch import launcher
from iapo.models.loading import load_model
from iapo.training.checkpoints import clean, metrics_file

_STEPS, _SAVED, _KILLED = 4, 2, 3
_TRUSTED = 1.15
"""The estimate's memory is trusted to 15 %."""

_SAME = 1e-3
"""Largest relative difference of the weights' changes between a run and one that was killed and resumed."""


def resume(scale: Scale, device: torch.device, work: Path) -> Finding:
    """Train a shallow student whole, and once more with a kill behind a checkpoint: both save the same policy.

    On a CPU accelerate does not shard; the launcher, gloo, checkpoints and saving are the same.
    """
    layers = min(scale.shallow_layers, 2)
    size = replace(scale.student, layers=layers, vision_layers=layers)
    start = start_directory(work, size, scale, device.type)
    config = _config(scale, device.type, {"steps": _STEPS, "save_every": _SAVED, "learning_rate": 1e-3})
    whole = _job(scale, start, work / "whole", config)
    killed = _job(scale, start, work / "killed", config, dies_after=_KILLED)
    for job in (whole, killed):
        shutil.rmtree(job.folder, ignore_errors=True)
    statuses = {"whole": _launch(whole, work), "killed": _launch(killed, work)}
    rows_of_killed = len(metrics_file(Path(killed.folder)).rows())
    clean(Path(killed.folder))
    statuses["resumed"] = _launch(replace(killed, dies_after=None), work)
    if statuses["whole"] or statuses["resumed"]:
        raise RuntimeError(f"found exit statuses {statuses}, expected 0 of the whole and of the resumed run")
    one, other, before = (load_model(path)[0].state_dict() for path in (whole.policy, killed.policy, start))
    changes = {name: (one[name] - before[name]).norm() for name in one}
    apart = {name: (one[name] - other[name]).norm() for name in one}
    different = torch.stack(list(apart.values())).norm() / torch.stack(list(changes.values())).norm()
    rows = metrics_file(Path(killed.folder)).rows()
    for job in (whole, killed):
        shutil.rmtree(job.folder)
    return Finding(
        {
            "sharded": device.type == "cuda",
            "backend": "nccl" if device.type == "cuda" else "gloo",
            "parameters": size.parameters,
            "exit_status_of_the_kill": statuses["killed"],
            "steps_before_the_kill": rows_of_killed,
            "steps_after_resuming": [row["step"] for row in rows],
            "seconds_a_step": rows[-1]["seconds/step"],
            "weights_changed": torch.stack(list(changes.values())).norm().item(),
            "relative_difference": different.item(),
        },
        {
            "resumed against whole": Bound(different.item(), _SAME),
            "steps missing or repeated": Bound(
                float([row["step"] for row in rows] != list(range(1, _STEPS + 1))), 0.0
            ),
            "not killed": Bound(float(statuses["killed"] == 0 or rows_of_killed != _KILLED), 0.0),
        },
    )


def full_weights(scale: Scale, device: torch.device, work: Path) -> Finding:
    """Train all weights of the student for two steps, and hold the peak of memory against the estimate's formula.

    The process is killed before it would write a checkpoint of 45 GB.
    """
    start = start_directory(work, scale.student, scale, device.type)
    config = _config(scale, device.type, {"steps": 2}, {"checkpoint_activations": True})
    job = _job(scale, start, work / "full", config, dies_after=2)
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
        {"peak over the estimate": Bound(peak / expected, _TRUSTED)},
    )


def _config(scale: Scale, device: str, train: dict[str, Any], hardware: dict[str, Any] | None = None) -> dict[str, Any]:
    return run_config(scale, device, train=train, hardware={"strategy": "fsdp2", **(hardware or {})})


def _job(scale: Scale, start: Path, folder: Path, config: dict[str, Any], dies_after: int | None = None) -> TrainingJob:
    return TrainingJob(scale.name, str(start), str(folder), config, dies_after=dies_after)


def _launch(job: TrainingJob, work: Path) -> int:
    """Run a job as runs of several processes are started, and return the launcher's exit status."""
    described = job.write(work / f"{Path(job.folder).name}.job.json")
    command = [sys.executable, "-m", *launcher(load_config(job.config)), "-m", "benchmarks.gpu_check.training_job"]
    return subprocess.run([*command, str(described)], check=False).returncode
