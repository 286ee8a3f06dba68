"""Trained policies' results on the dev split, in a process of their own.

What is trained next needs its GPU whole, and answering leaves memory on it that a process gives back only as it ends.
``python -m iapo.training.trial JOB.json`` is that process.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass

from iapo.artifacts.files import atomic_write, write_json
from iapo.config.schema import Config
from iapo.config.sources import EngineName, Precision
from iapo.data.store import read_split
from iapo.jobs.ending import exit_when_asked
from iapo.jobs.job_log import show_own_messages
from iapo.jobs.launch import launch_alone
from iapo.rollout.engines import load_writer
from iapo.training.weight_search import DevFigures, dev_figures
from iapo.types import Example


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class DevJob:
    """Which policies answer which questions, and how."""

    policies: tuple[Path, ...]
    """Pretrained directories."""
    data: Path
    """Folder of the data's manifest."""
    sets: tuple[str, ...]
    """Test sets whose dev questions are asked."""
    batch_size: int
    """Questions answered together."""
    turn_tokens: int
    """Longest turn, tokens."""
    engine: EngineName
    """What runs the policies. vLLM answers as many together as the GPU has room for; with transformers `batch_size`
    must fit."""
    device: str
    precision: Precision


_JOB: TypeAdapter[DevJob] = TypeAdapter(DevJob)


def policy_figures(policies: Sequence[Path], data: Path, config: Config, run_dir: Path) -> list[DevFigures]:
    """Return each policy's results on the dev split.

    Args:
        policies: pretrained directories.
        data: folder of the data's manifest.
        config: of the run.
        run_dir: folder of the search; a process of its own finds its description there, and leaves its results.
    """
    evaluation = config.evaluation
    job = DevJob(
        policies=tuple(policies),
        data=data,
        sets=config.train.sets,
        batch_size=evaluation.batch_size,
        turn_tokens=evaluation.turn_tokens,
        engine=evaluation.engine,
        device=config.device,
        precision=config.hardware.precision,
    )
    if config.device == "cpu" and evaluation.engine == "transformers":
        return figures_of(job)
    # One process each: vLLM leaves no room for a second policy beside the first.
    return [
        figures
        for policy in policies
        for figures in figures_alone(replace(job, policies=(policy,)), run_dir / "dev.json")
    ]


def figures_of(job: DevJob) -> list[DevFigures]:
    """Return the results of each policy of a job; the questions are read once for all."""
    dev = read_split(job.data, "dev", job.sets)
    return [_policy_figures(policy, dev, job) for policy in job.policies]


def figures_alone(job: DevJob, description: Path) -> list[DevFigures]:
    """Return the results of each policy of a job, from a process of its own.

    Args:
        job: the job.
        description: file that the job is described in; the results are written beside it.
    """
    with atomic_write(description) as tmp:
        tmp.write_bytes(_JOB.dump_json(job, indent=1))
    launch_alone("iapo.training.trial", description)
    return [DevFigures(*found) for found in json.loads(_results(description).read_text())]


def _results(description: Path) -> Path:
    return description.with_suffix(".results.json")


def _policy_figures(policy: Path, dev: Sequence[Example], job: DevJob) -> DevFigures:
    writer, processor = load_writer(policy, job.engine, device=job.device, precision=job.precision)
    return dev_figures(writer, processor, dev, batch_size=job.batch_size, turn_tokens=job.turn_tokens)


if __name__ == "__main__":
    show_own_messages()
    described = Path(sys.argv[1])
    with exit_when_asked():
        write_json(_results(described), figures_of(_JOB.validate_json(described.read_bytes())))
