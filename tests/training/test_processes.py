"""One training run in two processes and in one: the same rollouts a step, whole groups, one policy at the end."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from baselines import METHODS
from baselines.run import TrainingJob, run_job
from iapo.config.declared import declare
from iapo.config.schema import Config, ConfigError, EvaluationConfig, TrainConfig
from iapo.config.sources import HardwareConfig
from iapo.jobs.launch import launch
from iapo.models.loading import load_model, save_model
from iapo.training import trial
from iapo.training.grpo_config import batch_sizes, grpo_config
from iapo.training.trial import DevJob, figures_alone, figures_of

FEW = TrainConfig(steps=2, groups_per_step=2, group_size=2, prompts_per_set=1, save_every=1)


def test_two_processes_train_one_policy(tmp_path: Path, tiny: tuple[Any, Any], data_root: Path) -> None:
    save_model(*tiny, tmp_path / "start")
    config = Config(profile="test", train=FEW, hardware=HardwareConfig(processes=2, rollouts_per_forward=1))
    job = TrainingJob(
        method="call_bonus", name="call_bonus", seed=0, config=asdict(config), data=data_root,
        settings=declare(config, *METHODS["call_bonus"].settings_read),
        start=tmp_path / "start", run_dir=tmp_path / "work", output=tmp_path / "out",
    )  # fmt: skip
    rows = run_job(job)
    assert [row["step"] for row in rows] == [1, 2]
    # Of both processes: each saw one group of two rollouts.
    assert all(0 <= row["tools/call_rate"] <= 1 and row["seconds/step"] > 0 for row in rows)
    # Each process's own state is listed with the checkpoint.
    listed = json.loads((tmp_path / "work/checkpoints/checkpoint-2/files.json").read_text())["files"]
    assert {f"checkpoints/checkpoint-2/rng_state_{rank}.pth" for rank in (0, 1)} < listed.keys()
    assert load_model(tmp_path / "out")[0].num_parameters() == tiny[0].num_parameters()
    # What is finished is not trained again.
    assert run_job(job) == rows


def test_a_failed_process_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = Config(profile="test", hardware=HardwareConfig(processes=2))
    with pytest.raises(RuntimeError, match=r"2 processes ended with status 1"):
        launch("baselines.run", tmp_path / "no_job.json", config)
    assert "FileNotFoundError" in capsys.readouterr().err


def test_a_process_of_its_own_finds_the_same_figures_and_the_questions_are_read_once(
    tmp_path: Path, tiny: tuple[Any, Any], data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "other"):
        save_model(*tiny, tmp_path / name)
    job = DevJob(
        policies=(tmp_path / "one", tmp_path / "other"), data=data_root, sets=("h_bar", "vwtq"), batch_size=16,
        turn_tokens=8, engine="transformers", device="cpu", precision="float32",
    )  # fmt: skip
    found = figures_alone(job, tmp_path / "dev.json")
    reads: list[str] = []
    read = trial.read_split
    monkeypatch.setattr(trial, "read_split", lambda *which: reads.append(which[1]) or read(*which))
    assert found == figures_of(job) and found[0] == found[1] and found[0].items == 40
    assert reads == ["dev"]


@pytest.mark.parametrize(
    ("engine", "device", "jobs"), [("vllm", "cuda", 2), ("vllm", "cpu", 2), ("transformers", "cuda", 2)]
)
def test_each_policy_is_asked_in_a_process_of_its_own_by_the_engine_of_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: Any, device: Any, jobs: int
) -> None:
    asked: list[DevJob] = []
    monkeypatch.setattr(trial, "figures_alone", lambda job, description: asked.append(job) or [job.policies[0].name])
    config = Config(profile="test", device=device, evaluation=EvaluationConfig(engine=engine))
    policies = [tmp_path / "one", tmp_path / "other"]
    assert trial.policy_figures(policies, tmp_path, config, tmp_path) == ["one", "other"]
    assert len(asked) == jobs and {job.engine for job in asked} == {engine}

    def loaded(directory: Path, engine: str, **_: Any) -> Any:
        raise InterruptedError(directory, engine)

    monkeypatch.setattr(trial, "load_writer", loaded)
    monkeypatch.setattr(trial, "read_split", lambda *_: [])
    with pytest.raises(InterruptedError) as error:
        figures_of(asked[1])
    assert error.value.args == (tmp_path / "other", engine)


@pytest.mark.parametrize(("strategy", "each_pass"), [("fsdp2", True), ("ddp", False)])
def test_shards_reduce_their_gradients_at_every_pass(
    tmp_path: Path, tiny: tuple[Any, Any], strategy: Any, each_pass: bool
) -> None:
    config = Config(profile="test", train=FEW, hardware=HardwareConfig(strategy=strategy))
    arguments = grpo_config(config, replace(FEW, max_completion_length=60), [], tiny[1], [], tmp_path, seed=0)
    accumulating: Any = arguments.accelerator_config
    assert accumulating.gradient_accumulation_kwargs == {"sync_each_batch": each_pass}


def test_a_step_is_dealt_to_processes_and_passes() -> None:
    settings = TrainConfig(groups_per_step=8, group_size=4)

    def sizes(**hardware: Any) -> tuple[int, int]:
        return batch_sizes(Config(profile="x", hardware=HardwareConfig(**hardware)), settings)

    assert sizes() == (32, 1)
    assert sizes(processes=4) == (8, 1)
    assert sizes(processes=4, rollouts_per_forward=2) == (2, 4)
    with pytest.raises(ConfigError, match="whole groups"):
        sizes(processes=3)
    with pytest.raises(ConfigError, match="use a divisor"):
        sizes(rollouts_per_forward=5)
