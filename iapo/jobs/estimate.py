"""What a run with pretrained models will need: GPU memory, hours and disk, before any of it is spent. No torch.

``python -m baselines.estimate --configfile config/paper.yaml`` prints it; docs/estimate.md has the formulas, which are
:mod:`iapo.jobs.memory` and :mod:`iapo.jobs.times`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from snakemake.utils import update_config
from tabulate import tabulate

from iapo.config.method_registry import Method
from iapo.config.schema import Config, load_config
from iapo.jobs.lengths import GB
from iapo.jobs.measured_card import measured_hardware
from iapo.jobs.stages import Stage, jobs_of


@dataclass(frozen=True)
class Estimate:
    """All of a run up to its table."""

    stages: tuple[Stage, ...]
    """In the order in which they wait for each other."""
    disk_gb: float
    """That it leaves on disk, GB."""
    assumes: str
    """What was not known."""

    @property
    def gpus(self) -> int:
        """Of the largest job."""
        return max(stage.gpus for stage in self.stages)

    @property
    def memory_gb(self) -> float:
        """That every GPU must have, GB."""
        return max(stage.memory_gb for stage in self.stages)

    @property
    def gpu_hours(self) -> float:
        """All GPUs' hours together, at what public runs came to."""
        return sum(stage.jobs * stage.gpus * stage.hours for stage in self.stages)

    def wall_hours(self, gpus: int) -> tuple[float, float]:
        """Least and likely hours on one machine with some GPUs, stage by stage.

        Raises:
            ValueError: where the largest job needs more.
        """
        if gpus < self.gpus:
            raise ValueError(f"found {gpus} GPUs; the largest job needs {self.gpus} (hardware.processes)")
        rounds = [math.ceil(stage.jobs / (gpus // max(1, stage.gpus))) for stage in self.stages]
        least = sum(count * stage.least_hours for count, stage in zip(rounds, self.stages, strict=True))
        return least, sum(count * stage.hours for count, stage in zip(rounds, self.stages, strict=True))


def estimate(config: Config, methods: Mapping[str, Method]) -> Estimate:
    """What a run with pretrained models needs, from its configuration alone.

    Args:
        config: of the run.
        methods: all methods by name.

    Raises:
        ConfigError: for a measured card's file that says nothing.
        UnknownModelError: for tiny models, which need nothing to speak of, and for models whose sizes are not known.
    """
    config = dataclasses.replace(config, hardware=measured_hardware(config.hardware))
    stages, disk_bytes = jobs_of(config, methods)
    known = config.hardware.tflops, config.hardware.bandwidth_tb
    assumes = "hours from 40 % of an H100's peak to what public runs came to"
    if None not in known:
        assumes = f"{known[0]:g} TFLOP/s and {known[1]:g} TB/s a GPU"
    return Estimate(stages, disk_bytes / GB, assumes)


def hours_text(least: float, likely: float) -> str:
    """Hours as a range; one number where both ends are the same."""
    ends = dict.fromkeys(f"{hours:.{0 if likely >= 10 else 1}f}" for hours in (least, likely))
    return " to ".join(ends)


def estimate_text(found: Estimate, gpus: int | None = None) -> str:
    """One sentence and a table of the stages.

    Args:
        found: the estimate.
        gpus: of the machine; as many as the largest job needs when absent.
    """
    gpus = gpus or found.gpus
    rows = [
        (stage.name, stage.jobs, stage.gpus, f"{stage.memory_gb:.0f}", hours_text(stage.least_hours, stage.hours))
        for stage in found.stages
    ]
    return (
        f"needs about {found.memory_gb:.0f} GB on each of {gpus} GPUs, about "
        f"{hours_text(*found.wall_hours(gpus))} h and {found.disk_gb:.0f} GB of disk\n"
        f"({found.assumes}; docs/estimate.md)\n\n"
        + tabulate(rows, headers=("stage", "jobs", "GPUs each", "GB a GPU", "hours each"), disable_numparse=True)
    )


def read_config(paths: Sequence[Path]) -> Config:
    """The configuration of some files laid over each other, as Snakemake lays them.

    Raises:
        ConfigError: for an unknown key or a value out of range.
        OSError: for a file that is not there.
    """
    return load_config(merge_configs([yaml.safe_load(path.read_text()) or {} for path in paths]))


def merge_configs(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return some configurations laid over each other, as Snakemake lays them; later ones come before earlier ones."""
    raw: dict[str, Any] = {}
    for part in parts:
        update_config(raw, part)
    return raw
