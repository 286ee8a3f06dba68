"""One training run of a method, described so that it can cross to other processes.

``python -m baselines.run JOB.json`` is what each process of a run on several GPUs executes.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass

from baselines import METHODS
from iapo.artifacts.files import atomic_write, exclusive, sha256_file
from iapo.config.declared import Settings, declared_config
from iapo.config.schema import Config, load_config
from iapo.data.mini_world.hints import with_hint_rate
from iapo.data.store import read_split
from iapo.jobs.ending import exit_when_asked
from iapo.jobs.job_log import show_own_messages
from iapo.jobs.launch import launch
from iapo.jobs.tracking import tracked
from iapo.training.checkpoints import clean, identity_file, metrics_file, reset_if_stale
from iapo.training.finished import keep_policy, take_back
from iapo.types import Example


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class TrainingJob:
    """What :func:`run_job` needs to know."""

    method: str
    """Key of ``baselines.METHODS``."""
    name: str
    """What the run is called in logs and tables: the method's name or a variant's."""
    seed: int
    """Of the rollouts and the order of prompts."""
    settings: Settings
    """Declared settings that decide what the run comes to; ``train`` is the run's own, be it a teacher's."""
    config: dict[str, Any]
    """The whole configuration, read for the settings that rerun nothing alone."""
    data: Path
    """Folder of the data's manifest."""
    start: Path
    """Pretrained directory of the policy to improve."""
    run_dir: Path
    """Checkpoints and the growing metrics file; survives a killed run."""
    output: Path
    """Gets the trained policy, whole or not at all."""
    hint_rate: float | None = None
    """Shortcut world: how often the hint is right in the training questions; None leaves them as drawn."""
    cache: Path | None = None
    """The teacher's cache, for methods that use one."""
    teacher: Path | None = None
    """Pretrained directory of the teacher, where it is the verifier."""
    replies: Path | None = None
    """Where a verifier's server's replies are kept."""
    code: str = ""
    """Digest of the code that trains the method, as the workflow's rules have it."""
    tracking: Path | None = None
    """Gets the files of the tracker (`train.report_to`); None for a run that no tracker is told of."""


_JOB: TypeAdapter[TrainingJob] = TypeAdapter(TrainingJob)


def run_job(job: TrainingJob) -> list[dict[str, float]]:
    """Train one policy, here or in several processes, resuming from the last whole checkpoint of this very run.

    Where this very run is finished already, its policy is put where it belongs, and nothing is trained.

    Returns:
        One row of figures per step.
    """
    with exclusive(job.run_dir):
        reset_run_dir(job)
        if take_back(job.run_dir, job.output):
            return metrics_file(job.run_dir).rows()
        clean(job.run_dir)
        config = _config(job)
        if config.hardware.processes == 1 and config.device == "cpu":
            _train(job, config)
        else:
            description = job.run_dir / "job.json"
            try:
                with atomic_write(description) as tmp:
                    tmp.touch(mode=0o600)
                    tmp.write_bytes(_JOB.dump_json(job, indent=1))
                # On one GPU too: the next run's vLLM would find this one's still there.
                launch("baselines.run", description, config)
            finally:
                # It holds the address of a verifier's server, and so perhaps credentials.
                description.unlink(missing_ok=True)
        keep_policy(job.run_dir, job.output)
        return metrics_file(job.run_dir).rows()


def reset_run_dir(job: TrainingJob) -> None:
    """Empty the run's folder unless it is of the same settings, hardware, data, models and code."""
    folders = {"data": job.data, "start": job.start, "cache": job.cache, "teacher": job.teacher}
    reset_if_stale(
        job.run_dir,
        {
            "method": job.method,
            "seed": job.seed,
            "settings": job.settings,
            "hint_rate": job.hint_rate,
            "inputs": {name: _contents(folder) for name, folder in folders.items() if folder},
            "code": job.code,
        },
    )


def _contents(folder: Path) -> dict[str, str]:
    """Digests of what a folder of data, a model or a cache consists of."""
    kinds = ("manifest.json", "*.safetensors", "*.parquet")
    return {path.name: sha256_file(path) for kind in kinds for path in sorted(folder.glob(kind))}


def _config(job: TrainingJob) -> Config:
    return declared_config(job.settings, load_config(job.config))


def _train(job: TrainingJob, config: Config) -> None:
    # Around the imports too: a tracker reads where its files go when TRL imports it.
    with _reporting(job, config) as reporting:
        # Seconds of imports, which a job that only launches other processes need not wait for.
        from iapo.training.run import train
        from iapo.training.trainer import Sources

        train(
            replace(METHODS[job.method], name=job.name),
            config,
            _examples(job, config.train.sets),
            start=job.start,
            run_dir=job.run_dir,
            output=job.output,
            seed=job.seed,
            sources=Sources(cache=job.cache, teacher=job.teacher, replies=job.replies),
            dev=_split(job.data, "dev", config.train.sets) if config.train.dev_every else (),
            reporting=reporting,
        )


def _reporting(job: TrainingJob, config: Config) -> AbstractContextManager[Mapping[str, Any]]:
    """Where the run is reported, under its method and seed."""
    tracker = config.train.report_to if job.tracking else None
    # What the run depends on is in its name too: a run of other settings or code is not taken for it.
    name = f"{job.name}-seed{job.seed}-{sha256_file(identity_file(job.run_dir))[:6]}" if tracker else ""
    return tracked(tracker, name, project=f"iapo-{job.config['profile']}", folder=job.tracking or job.run_dir)


def _examples(job: TrainingJob, sets: tuple[str, ...]) -> list[Example]:
    drawn = _split(job.data, "train", sets)
    return drawn if job.hint_rate is None else with_hint_rate(drawn, job.hint_rate, job.seed)


@lru_cache(maxsize=2)
def _split(data: Path, split: Literal["train", "dev"], sets: tuple[str, ...]) -> list[Example]:
    """Read once for all seeds of a process."""
    return read_split(data, split, sets)


if __name__ == "__main__":
    show_own_messages()
    described = _JOB.validate_json(Path(sys.argv[1]).read_bytes())
    with exit_when_asked():
        _train(described, _config(described))
