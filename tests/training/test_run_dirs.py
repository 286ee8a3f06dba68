"""A run directory belongs to one run: what another run left there is never resumed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from baselines import METHODS
from baselines.run import TrainingJob, reset_run_dir
from iapo.config.declared import declare, with_value
from iapo.config.schema import Config
from iapo.training.checkpoints import drop_checkpoints, metrics_file
from iapo.training.finished import keep_policy, take_back

CONFIG = Config(profile="test")
SETTINGS = declare(CONFIG, *METHODS["iapo"].settings_read)
REUSED = "checkpoints/checkpoint-60/trainer_state.json"


@pytest.fixture
def job(tmp_path: Path) -> TrainingJob:
    """Of a run that has a checkpoint."""
    for name in ("data/manifest.json", "start/model.safetensors", "cache/shard.parquet"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(name)
    folders = {name: tmp_path / name for name in ("data", "start", "cache", "run_dir")}
    job = TrainingJob("iapo", "iapo", 0, SETTINGS, asdict(CONFIG), output=tmp_path / "model", **folders)
    reset_run_dir(job)
    leave_checkpoint(job)
    return job


def leave_checkpoint(job: TrainingJob) -> None:
    (job.run_dir / REUSED).parent.mkdir(parents=True)
    (job.run_dir / REUSED).write_text("{}")
    (job.run_dir / "metrics.jsonl").write_text('{"step": 1}\n')
    (job.run_dir / ".lock").touch()


def rewritten(name: str) -> Callable[[TrainingJob], TrainingJob]:
    def change(job: TrainingJob) -> TrainingJob:
        (job.run_dir.parent / name).write_text("other bytes")
        return job

    return change


def changed(key: str, value: object) -> Callable[[TrainingJob], TrainingJob]:
    return lambda job: replace(job, settings=with_value(job.settings, key, value))


def test_the_same_run_resumes(job: TrainingJob) -> None:
    others = replace(CONFIG, seeds=(5, 6, 7), attribution=replace(CONFIG.attribution, tokens_per_forward=99))
    reset_run_dir(replace(job, config=asdict(others)))
    assert (job.run_dir / REUSED).exists() and (job.run_dir / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    "change",
    [
        changed("alignment.weight", 0.001),
        lambda job: replace(job, seed=1),
        changed("train.steps", 5),
        changed("hardware.lora_rank", 8),
        changed("device", "cuda"),
        lambda job: replace(job, code="another"),
        changed("train.learning_rate", 1e-4),
        lambda job: replace(job, hint_rate=0.5),
        lambda job: replace(job, method="iapo_shuffled"),
        rewritten("data/manifest.json"),
        rewritten("start/model.safetensors"),
        rewritten("cache/shard.parquet"),
    ],
    ids=["weight", "seed", "steps", "rank", "device", "code", "rate", "hints", "method", "data", "start", "cache"],
)
def test_another_run_starts_over(
    job: TrainingJob, change: Callable[[TrainingJob], TrainingJob], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    reset_run_dir(change(job))
    assert {path.name for path in job.run_dir.iterdir()} == {".lock", "identity.json"}
    assert "starts over" in caplog.text
    leave_checkpoint(job)
    reset_run_dir(change(job))
    assert (job.run_dir / REUSED).exists()


def test_a_folder_that_names_no_run_is_not_trusted(job: TrainingJob) -> None:
    (job.run_dir / "identity.json").unlink()
    reset_run_dir(job)
    assert not (job.run_dir / REUSED).exists()


@pytest.mark.parametrize("content", [b"", b'{"method": "ia', b"\xff\xfe", b"[]", b"{}"])
def test_a_damaged_identity_is_another_run(job: TrainingJob, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    (job.run_dir / "identity.json").write_bytes(content)
    reset_run_dir(job)
    assert {path.name for path in job.run_dir.iterdir()} == {".lock", "identity.json"}
    assert "no run that identity.json describes" in caplog.text and "starts over" in caplog.text
    leave_checkpoint(job)
    reset_run_dir(job)
    assert (job.run_dir / REUSED).exists()


def test_what_a_finished_run_needs_no_more_is_deleted_and_its_figures_kept(tmp_path: Path) -> None:
    trial = tmp_path / "weight_0.5"
    for run in (tmp_path, trial):
        for name in ("checkpoints/checkpoint-2/model", "average", "model", "rollouts", "finished"):
            (run / name).mkdir(parents=True)
        (run / "metrics.jsonl").write_text("")
    drop_checkpoints(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"rollouts", "metrics.jsonl", "finished", trial.name}
    assert {path.name for path in trial.iterdir()} == {"rollouts", "metrics.jsonl"}


@pytest.fixture
def finished(tmp_path: Path) -> tuple[Path, Path]:
    run_dir, output = tmp_path / "work", tmp_path / "model"
    metrics_file(run_dir).append({"step": 1, "reward": 0.5})
    output.mkdir()
    for name in ("model.safetensors", "tokenizer.json"):
        (output / name).write_text(name)
    keep_policy(run_dir, output)
    return run_dir, output


def test_a_finished_policy_is_taken_back_and_takes_no_room_twice(finished: tuple[Path, Path]) -> None:
    run_dir, output = finished
    assert (output / "tokenizer.json").stat().st_nlink == 2
    # What a job that is given again finds: Snakemake has removed its outputs, and checkpoints are gone.
    shutil.rmtree(output)
    drop_checkpoints(run_dir)
    assert take_back(run_dir, output)
    assert {path.name: path.read_text() for path in output.iterdir()} == {
        name: name for name in ("model.safetensors", "tokenizer.json")
    }
    assert [row["step"] for row in metrics_file(run_dir).rows()] == [1]


def test_what_is_damaged_is_not_taken_back(finished: tuple[Path, Path], tmp_path: Path) -> None:
    run_dir, output = finished
    # In place, so that both names have the damaged bytes.
    (output / "model.safetensors").write_text("model.safetensorS")
    assert not take_back(run_dir, tmp_path / "other") and not (tmp_path / "other").exists()
    (output / "model.safetensors").write_text("model.safetensors")
    assert take_back(run_dir, tmp_path / "other")
    (run_dir / "metrics.jsonl").write_text('{"step": 1, "reward": 0.6}\n')
    assert not take_back(run_dir, output)
    assert not take_back(tmp_path / "none", output)


def test_without_links_a_run_goes_on_without_a_second_name(
    finished: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refused)
    keep_policy(tmp_path / "another", finished[1])
    assert not (tmp_path / "another/finished").exists() and not take_back(tmp_path / "another", finished[1])
