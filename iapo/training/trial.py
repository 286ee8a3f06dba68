"""A trained policy's results on the dev split, in a process of their own.

A trial's training needs its GPU whole, and answering leaves memory on it that a process gives back only as it ends.
``python -m iapo.training.trial JOB.json`` is that process.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass

from iapo.artifacts.files import atomic_write, write_json
from iapo.config.schema import Config
from iapo.config.sources import Precision
from iapo.data.store import read_split
from iapo.jobs.ending import exit_when_asked
from iapo.jobs.job_log import show_own_messages
from iapo.jobs.launch import launch_alone
from iapo.models.loading import load_model
from iapo.training.weight_search import dev_figures


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class DevJob:
    """Which policy answers which questions, and how."""

    policy: Path
    """Pretrained directory."""
    data: Path
    """Folder of the data's manifest."""
    sets: tuple[str, ...]
    """Test sets whose dev questions are asked."""
    batch_size: int
    """Questions answered together."""
    turn_tokens: int
    """Longest turn, tokens."""
    device: str
    precision: Precision


_JOB: TypeAdapter[DevJob] = TypeAdapter(DevJob)


def policy_figures(policy: Path, data: Path, config: Config) -> tuple[float, float, int]:
    """Return a policy's accuracy and call rate on the dev split, and the number of questions.

    Args:
        policy: pretrained directory.
        data: folder of the data's manifest.
        config: of the run.
    """
    evaluation = config.evaluation
    job = DevJob(
        policy=policy,
        data=data,
        sets=config.train.sets,
        batch_size=evaluation.batch_size,
        turn_tokens=evaluation.turn_tokens,
        device=config.device,
        precision=config.hardware.precision,
    )
    return figures_of(job, alone=config.device != "cpu")


def figures_of(job: DevJob, *, alone: bool) -> tuple[float, float, int]:
    """Return accuracy, call rate and number of questions of a job.

    Args:
        job: the job.
        alone: whether in a process of its own; its description and its results are written beside the policy.
    """
    if not alone:
        return _figures(job)
    description = job.policy.with_name(f"{job.policy.name}_dev.json")
    with atomic_write(description) as tmp:
        tmp.write_bytes(_JOB.dump_json(job, indent=1))
    launch_alone("iapo.training.trial", description)
    accuracy, call_rate, items = json.loads(_results(description).read_text())
    return accuracy, call_rate, items


def _results(description: Path) -> Path:
    return description.with_suffix(".results.json")


def _figures(job: DevJob) -> tuple[float, float, int]:
    model, processor = load_model(job.policy, device=job.device, precision=job.precision)
    dev = read_split(job.data, "dev", job.sets)
    return dev_figures(model, processor, dev, batch_size=job.batch_size, turn_tokens=job.turn_tokens)


if __name__ == "__main__":
    show_own_messages()
    described = Path(sys.argv[1])
    with exit_when_asked():
        write_json(_results(described), list(_figures(_JOB.validate_json(described.read_bytes()))))
