"""A tracker is told of a training, offline and under its name, and changes nothing of it."""

import importlib.util
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import wandb

from baselines import METHODS
from baselines.run import TrainingJob, run_job
from iapo.artifacts.files import sha256_file
from iapo.config.declared import declare
from iapo.config.method_registry import Method, RewardTerm
from iapo.config.schema import Config, ConfigError, TrainConfig, load_config
from iapo.jobs.preflight import PreflightError, check_tracker
from iapo.jobs.tracking import UNTRACKED, tracked
from iapo.models.loading import save_model

FEW = TrainConfig(
    steps=2, groups_per_step=2, group_size=2, prompts_per_set=1, save_every=1, max_completion_length=8, dev_every=2,
    dev_per_set=1, turn_tokens=8,
)  # fmt: skip


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a tracker's variables are set to in a test is gone after it."""
    for name in ("WANDB_MODE", "WANDB_PROJECT", "WANDB_DIR", "WANDB_CONSOLE", "TRACKIO_DIR", "TENSORBOARD_LOGGING_DIR"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def many_tokens(completion_ids: list[list[int]], **_: Any) -> list[float]:
    return [float(sum(ids)) for ids in completion_ids]


LEARNS = Method("many_tokens", "differs between any two rollouts", lambda config: [RewardTerm(many_tokens, weight=1.0)])


def trained(folder: Path, start: Path, data: Path, tracker: Any, seed: int = 0) -> Path:
    """Train two steps; return the run directory."""
    config = Config(profile="tracked", train=replace(FEW, report_to=tracker))
    settings = declare(config, *LEARNS.settings_read)
    job = TrainingJob(
        method=LEARNS.name, name="bonus", seed=seed, settings=settings, config=asdict(config), data=data, start=start,
        run_dir=folder / f"work{seed}", output=folder / f"model{seed}", tracking=folder / "tracking",
    )  # fmt: skip
    rows = run_job(job)
    assert [row["step"] for row in rows if "dev/accuracy" in row] == [0, 2]
    return job.run_dir


@pytest.mark.filterwarnings("ignore")
def test_a_tracked_training_is_the_same_run_and_each_seed_is_a_run_of_the_tracker(
    environment: None,
    tmp_path: Path,
    tiny: tuple[Any, Any],
    data_root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(METHODS, LEARNS.name, LEARNS)
    save_model(*tiny, tmp_path / "start")
    plain, told = tmp_path / "plain", tmp_path / "told"
    for seed in (0, 1):
        runs = [
            trained(folder, tmp_path / "start", data_root, tracker, seed)
            for folder, tracker in ((plain, None), (told, "wandb"))
        ]
        assert len({(run / "identity.json").read_text() for run in runs}) == 1
        weights = [sha256_file(folder / f"model{seed}/model.safetensors") for folder in (plain, told)]
        assert weights[0] == weights[1] != sha256_file(tmp_path / "start/model.safetensors")
    assert not (plain / "tracking").exists()
    # Its own process writes the files, and may still do so when a run has ended here; it ends with ours.
    wandb.teardown()
    files = [file.read_bytes() for file in sorted((told / "tracking/wandb").glob("offline-run-*/*.wandb"))]
    assert len(files) == 2
    for seed, content in enumerate(files):
        name = f"bonus-seed{seed}-{sha256_file(told / f'work{seed}/identity.json')[:6]}"
        assert name.encode() in content and b"iapo-tracked" in content and b"train/reward" in content
        # Before training and behind the last step, beside the steps' own metrics.
        assert content.count(b"train/dev/accuracy") >= 2
        assert f"bonus-seed{1 - seed}".encode() not in content


def test_the_user_s_own_environment_comes_first(
    environment: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    with tracked("tensorboard", "iapo-seed0", project="iapo-mini", folder=tmp_path) as arguments:
        assert arguments == {"report_to": "tensorboard", "run_name": "iapo-seed0", "project": "iapo-mini"}
        assert os.environ["WANDB_MODE"] == "online" and os.environ["WANDB_PROJECT"] == "iapo-mini"
        assert os.environ["TENSORBOARD_LOGGING_DIR"] == str(tmp_path / "tensorboard/iapo-seed0")
    with tracked("tensorboard", "iapo-seed1", project="iapo-mini", folder=tmp_path):
        assert os.environ["TENSORBOARD_LOGGING_DIR"] == str(tmp_path / "tensorboard/iapo-seed1")


def test_nothing_is_set_or_made_where_no_tracker_is_named(environment: None, tmp_path: Path) -> None:
    with tracked(None, "", project="p", folder=tmp_path / "tracking") as arguments:
        assert arguments == UNTRACKED == {"report_to": "none"}
    assert not (tmp_path / "tracking").exists() and "WANDB_MODE" not in os.environ


def test_a_tracker_that_is_not_installed_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config({"profile": "x", "train": {"report_to": "trackio"}})
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PreflightError, match=r"^train.report_to: found trackio without .* pip install trackio`"):
        check_tracker(config)
    check_tracker(load_config({"profile": "x"}))


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ({"teacher": {"train": {"report_to": "wandb"}}}, "teacher.train"),
        ({"student": {"first_stage": {"report_to": "wandb"}}}, "student.first_stage"),
        (
            {"variants": {"mine": {"method": "iapo", "settings": {"train": {"report_to": "wandb"}}}}},
            "variants.mine.settings.train",
        ),
    ],
)
def test_one_setting_names_the_tracker_of_every_training(section: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=f"{key}.report_to: found 'wandb'; train.report_to names"):
        load_config({"profile": "x"} | section)
