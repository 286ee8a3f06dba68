"""A work folder belongs to one run: what another run left there is never resumed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from baselines.run import TrainingJob, claim_work
from iapo.config import Config

CONFIG = Config(profile="test")
SLOWER = replace(CONFIG, train=replace(CONFIG.train, learning_rate=1e-4))
OTHER_SETS = replace(CONFIG, seeds=(5, 6, 7))
REUSED = "checkpoints/checkpoint-60/trainer_state.json"


@pytest.fixture
def job(tmp_path: Path) -> TrainingJob:
    """Of a run that has a checkpoint."""
    for name in ("data/manifest.json", "start/model.safetensors", "cache/shard.parquet"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(name)
    folders = {name: tmp_path / name for name in ("data", "start", "cache", "work")}
    job = TrainingJob("iapo", "method", 0, asdict(CONFIG), output=tmp_path / "model", weight=0.5, **folders)
    claim_work(job)
    leave_checkpoint(job)
    return job


def leave_checkpoint(job: TrainingJob) -> None:
    (job.work / REUSED).parent.mkdir(parents=True)
    (job.work / REUSED).write_text("{}")
    (job.work / "metrics.jsonl").write_text('{"step": 1}\n')
    (job.work / ".lock").touch()


def rewritten(name: str) -> Callable[[TrainingJob], TrainingJob]:
    def change(job: TrainingJob) -> TrainingJob:
        (job.work.parent / name).write_text("other bytes")
        return job

    return change


def test_the_same_run_resumes(job: TrainingJob) -> None:
    claim_work(replace(job, config=asdict(OTHER_SETS)))
    assert (job.work / REUSED).exists() and (job.work / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda job: replace(job, weight=0.001),
        lambda job: replace(job, seed=1),
        lambda job: replace(job, steps=5),
        lambda job: replace(job, code="another"),
        lambda job: replace(job, config=asdict(SLOWER)),
        lambda job: replace(job, method="iapo_shuffled"),
        rewritten("data/manifest.json"),
        rewritten("start/model.safetensors"),
        rewritten("cache/shard.parquet"),
    ],
    ids=["weight", "seed", "steps", "code", "settings", "method", "data", "start", "cache"],
)
def test_another_run_starts_over(
    job: TrainingJob, change: Callable[[TrainingJob], TrainingJob], capsys: pytest.CaptureFixture[str]
) -> None:
    claim_work(change(job))
    assert {path.name for path in job.work.iterdir()} == {".lock", "identity.json"}
    assert "starts over" in capsys.readouterr().out
    leave_checkpoint(job)
    claim_work(change(job))
    assert (job.work / REUSED).exists()


def test_a_folder_that_names_no_run_is_not_trusted(job: TrainingJob) -> None:
    (job.work / "identity.json").unlink()
    claim_work(job)
    assert not (job.work / REUSED).exists()
