"""One training run of a check, alone or under a launcher: ``python -m benchmarks.gpu_check.training_job JOB.json``."""

from __future__ import annotations

import dataclasses
import json
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu_check.questions import long_question
from benchmarks.gpu_check.scale import SCALES, Scale
from benchmarks.gpu_check.scripted_trainer import ScriptedAlternation, ScriptedGrpo, ScriptedTurns, Stopped
from benchmarks.gpu_check.shapes import prepared_processor
from iapo.artifacts.files import write_json
from iapo.config.method_registry import Method, RewardTerm, with_settings
from iapo.config.schema import Config, load_config
from iapo.rewards.alignment import alignment_reward
from iapo.rewards.outcome import outcome_reward
from iapo.teacher.writer import CacheWriter
from iapo.training.checkpoints import metrics_file
from iapo.training.run import train
from iapo.training.trainer import Sources


@dataclass(frozen=True)
class TrainingJob:
    """What a process trains; everything is JSON."""

    scale: str
    start: str
    """Pretrained directory."""
    folder: str
    """For checkpoints, metrics and the policy."""
    config: dict[str, Any]
    """Settings, as in a config file."""
    attributes: bool = False
    """Whether every other step attributes calls."""
    generates: bool = False
    """Whether turns are generated before they are replaced."""
    stopped_after: int | None = None
    """Step behind which training stops, without a checkpoint and a policy."""
    killed_after: int | None = None
    """Step behind which the process is killed."""

    @property
    def policy(self) -> Path:
        """Where the trained policy is saved."""
        return Path(self.folder) / "policy"

    def write(self, path: Path) -> Path:
        """Write the description for a process and return its path."""
        write_json(path, dataclasses.asdict(self))
        return path


def run_config(scale: Scale, device: str, *, train: dict[str, Any], hardware: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a run as in a config file.

    Args:
        scale: groups and turns of a step.
        device: ``cuda`` or ``cpu``.
        train: what differs in the section `train`.
        hardware: the section `hardware`.
    """
    return {
        "profile": "gpu_check",
        "device": device,
        "train": {
            "groups_per_step": scale.groups,
            "group_size": scale.group_size,
            "turn_tokens": scale.turn_tokens,
            "max_completion_length": None,
            "prompts_per_set": scale.groups,
            "learning_rate": 1e-6,
            "warmup_steps": 0,
            "rollouts": "transformers",
            "save_every": 10_000,
            **train,
        },
        "attribution": {"n_steps": scale.points, "tolerance": 1e9, "tokens_per_forward": 2048},
        # No teacher is asked: what its cache says costs nothing.
        "alignment": {"teacher": "uniform"},
        "hardware": {"rollouts_per_forward": 1, **hardware},
    }


def run(job: TrainingJob) -> list[dict[str, float]]:
    """Train and return the metrics of each step."""
    scale = SCALES[job.scale]
    ScriptedTurns.scale, ScriptedTurns.generates = scale, job.generates
    ScriptedTurns.stopped_after, ScriptedTurns.killed_after = job.stopped_after, job.killed_after
    trainer = ScriptedAlternation if job.attributes else ScriptedGrpo
    folder = Path(job.folder)
    processor = prepared_processor(scale)
    cache = folder / "cache"
    CacheWriter(cache, "gpu_check")
    rewards = _both if job.attributes else _outcome
    with suppress(Stopped):
        train(
            Method("gpu_check", "scripted turns", rewards, f"{trainer.__module__}:{trainer.__name__}"),
            load_config(job.config),
            [long_question(i, scale, processor) for i in range(scale.groups)],
            start=Path(job.start),
            sources=Sources(cache=cache),
            run_dir=folder,
            output=job.policy,
            seed=0,
        )
    return metrics_file(folder).rows()


def _outcome(config: Config) -> list[RewardTerm]:
    return [RewardTerm(outcome_reward, config.train.outcome_weight)]


def _both(config: Config) -> list[RewardTerm]:
    alignment = with_settings(alignment_reward, config=config.alignment)
    return [*_outcome(config), RewardTerm(alignment, config.alignment.weight)]


if __name__ == "__main__":
    run(TrainingJob(**json.loads(Path(sys.argv[1]).read_text())))
