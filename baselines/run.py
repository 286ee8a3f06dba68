"""One training run of a method, described so that it can cross to other processes.

``python -m baselines.run JOB.json`` is what each process of a run on several GPUs executes.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass

from baselines import METHODS
from iapo.checkpoints import claim, clean, metrics_file
from iapo.config import OVERRIDES, Config, load_config
from iapo.config_method import TrainConfig
from iapo.data.hints import with_hint_rate
from iapo.data.store import read_split
from iapo.launch import launch
from iapo.methods import resolve
from iapo.provenance import atomic_write, sha256_file
from iapo.types import TEST_SETS, Example

Stage = Literal["method", "teacher", "student"]
"""A method's training, the teacher's, or the student's first stage, which all methods start from."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class TrainingJob:
    """What :func:`run_job` needs to know."""

    method: str
    """Name of a method or a variant; the other stages train ``vtool_r1``."""
    stage: Stage
    seed: int
    """Of the rollouts and the order of prompts."""
    config: dict[str, Any]
    """Of the run, as a config file has it."""
    data: Path
    """Folder of the data's manifest."""
    start: Path
    """Pretrained directory of the policy to improve."""
    work: Path
    """Checkpoints and the growing metrics file; survives a killed run."""
    output: Path
    """Gets the trained policy, whole or not at all."""
    weight: float | None = None
    """What was chosen for the method's weight on the dev split."""
    steps: int | None = None
    """In place of the configured ones, for a trial."""
    cache: Path | None = None
    """The teacher's cache, for methods that use one."""
    teacher: Path | None = None
    """Pretrained directory of the teacher, where it is the verifier."""
    replies: Path | None = None
    """Where a verifier's server's replies are kept."""
    code: str = ""
    """Digest of the code that trains the method, as the workflow's rules have it."""


_JOB: TypeAdapter[TrainingJob] = TypeAdapter(TrainingJob)


def run_job(job: TrainingJob) -> list[dict[str, float]]:
    """Train one policy, here or in several processes, resuming from the last whole checkpoint of this very run.

    Returns:
        One row of figures per step.
    """
    claim_work(job)
    clean(job.work)
    config = load_config(job.config)
    if config.hardware.processes == 1:
        _train(job, config)
    else:
        description = job.work / "job.json"
        with atomic_write(description) as partial:
            partial.write_bytes(_JOB.dump_json(job, indent=1))
        launch("baselines.run", description, config)
    return metrics_file(job.work).rows()


def claim_work(job: TrainingJob) -> None:
    """Empty the work folder unless it is of the same settings, data, models and code."""
    method, config = resolve(job.method, load_config(job.config), METHODS, job.weight)
    sections = [*OVERRIDES, *(["verifier"] if method.uses_verifier else []), *(["teacher"] * (job.stage == "teacher"))]
    folders = {"data": job.data, "start": job.start, "cache": job.cache, "teacher": job.teacher}
    claim(
        job.work,
        {
            "method": job.method,
            "stage": job.stage,
            "seed": job.seed,
            "weight": job.weight,
            "settings": {name: asdict(getattr(config, name)) for name in sections},
            "train": asdict(_settings(job, config)),
            "inputs": {name: _contents(folder) for name, folder in folders.items() if folder},
            "code": job.code,
        },
    )


def _contents(folder: Path) -> dict[str, str]:
    """Digests of what a folder of data, a model or a cache consists of."""
    kinds = ("manifest.json", "*.safetensors", "*.parquet")
    return {path.name: sha256_file(path) for kind in kinds for path in sorted(folder.glob(kind))}


def _train(job: TrainingJob, run_config: Config) -> None:
    # Seconds of imports, which a job that only launches other processes need not wait for.
    from iapo.train import train

    method, config = resolve(job.method, run_config, METHODS, job.weight)
    train(
        method,
        config,
        _settings(job, config),
        _examples(job, config),
        start=job.start,
        work=job.work,
        output=job.output,
        seed=job.seed,
        cache=job.cache,
        teacher=job.teacher,
        replies=job.replies,
    )


def _settings(job: TrainingJob, config: Config) -> TrainConfig:
    settings = {"method": config.train, "teacher": config.teacher.train, "student": config.student.first_stage}
    chosen = settings[job.stage]
    if chosen is None:
        raise ValueError("student.first_stage: found none; the configuration has no first stage to train")
    return replace(chosen, steps=job.steps) if job.steps else chosen


def _examples(job: TrainingJob, config: Config) -> list[Example]:
    drawn = _train_split(job.data)
    if job.stage == "teacher" and config.data.hint_rate is not None:
        return with_hint_rate(drawn, config.teacher.train_hint_rate, job.seed)
    return drawn


@lru_cache(maxsize=1)
def _train_split(data: Path) -> list[Example]:
    """Read once for all seeds of a process."""
    return read_split(data, "train", TEST_SETS)


if __name__ == "__main__":
    described = _JOB.validate_json(Path(sys.argv[1]).read_bytes())
    _train(described, load_config(described.config))
