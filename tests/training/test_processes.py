"""One training run in two processes and in one: the same rollouts a step, whole groups, one policy at the end."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from baselines import METHODS
from baselines.run import TrainingJob, run_job
from iapo.config.declared import declare
from iapo.config.mini_world import ModelConfig
from iapo.config.schema import Config, ConfigError, EvaluationConfig, TrainConfig
from iapo.config.sources import HardwareConfig, Strategy
from iapo.data.selection import training_prompts
from iapo.data.store import read_split
from iapo.jobs.launch import launch
from iapo.models.loading import load_model, save_model
from iapo.models.tiny import build_model
from iapo.training import trial
from iapo.training.grpo_config import batch_sizes, grpo_config
from iapo.training.trial import DevJob, figures_alone, figures_of

pytestmark = pytest.mark.gpu_run

FEW = TrainConfig(
    steps=2, groups_per_step=2, group_size=4, prompts_per_set=1, save_every=1, learning_rate=1e-3, warmup_steps=0
)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory, data_root: Path, teach: Callable[..., None]) -> Path:
    """A policy with layers in both towers, by which accelerate shards, a head of its own, as the 7B teacher has, and
    calls that it makes now and then."""
    folder = tmp_path_factory.mktemp("start")
    model, processor = build_model(ModelConfig(hidden_size=32, num_layers=2, vision_depth=1), seed=0)
    model.config.tie_word_embeddings = model.config.text_config.tie_word_embeddings = False
    model.lm_head.weight = nn.Parameter(1.1 * model.lm_head.weight.detach())
    prompts = training_prompts(read_split(data_root, "train", FEW.sets), FEW.prompts_per_set)
    teach(model, processor, prompts, 80)
    save_model(model, processor, folder)
    return folder


def _job(folder: Path, start: Path, data: Path, strategy: Strategy) -> TrainingJob:
    hardware = HardwareConfig(processes=2, rollouts_per_forward=1, strategy=strategy)
    config = Config(profile="test", train=replace(FEW, kl_beta=0.01), hardware=hardware)
    return TrainingJob(
        method="call_bonus", name="call_bonus", seed=0, config=asdict(config), data=data,
        settings=declare(config, *METHODS["call_bonus"].settings_read),
        start=start, run_dir=folder / "work", output=folder / "out",
    )  # fmt: skip


@pytest.fixture(scope="module")
def copies(
    tmp_path_factory: pytest.TempPathFactory, start: Path, data_root: Path
) -> tuple[Path, list[dict[str, float]]]:
    """Folder and figures of a run whose two processes hold a copy of the policy each."""
    folder = tmp_path_factory.mktemp("copies")
    job = _job(folder, start, data_root, "ddp")
    rows = run_job(job)
    # What is finished is not trained again.
    assert run_job(job) == rows
    return folder, rows


def test_two_processes_train_one_policy(copies: tuple[Path, list[dict[str, float]]], start: Path) -> None:
    folder, rows = copies
    assert [row["step"] for row in rows] == [1, 2]
    # Some rollouts earn their bonus and others do not: else no gradient could be compared.
    assert all(row["reward_std"] > 0 and row["grad_norm"] > 1e-3 for row in rows)
    # Of both processes: each saw one group of two rollouts.
    assert all(0 <= row["tools/call_rate"] <= 1 and row["seconds/step"] > 0 for row in rows)
    # Each process's own state is listed with the checkpoint.
    listed = json.loads((folder / "work/checkpoints/checkpoint-2/files.json").read_text())["files"]
    assert {f"checkpoints/checkpoint-2/rng_state_{rank}.pth" for rank in (0, 1)} < listed.keys()
    assert load_model(folder / "out")[0].num_parameters() == load_model(start)[0].num_parameters()


def test_processes_that_share_one_policy_train_it_as_those_with_copies_do(
    copies: tuple[Path, list[dict[str, float]]], tmp_path: Path, start: Path, data_root: Path
) -> None:
    folder, rows = copies
    job = _job(tmp_path, start, data_root, "fsdp2")
    found = run_job(job)
    # Written whole by FSDP2, in place of transformers' own files.
    names = {path.name for path in (tmp_path / "work/checkpoints/checkpoint-2").iterdir()}
    assert "pytorch_model_fsdp.bin" in names
    # The same turns were drawn from the same weights, so that gradients can be compared.
    for key in ("reward", "completions/mean_length", "tools/call_rate", "kl"):
        assert [row[key] for row in found] == pytest.approx([row[key] for row in rows]), key
    assert [row["grad_norm"] for row in found] == pytest.approx([row["grad_norm"] for row in rows], rel=1e-3)
    wanted = load_model(folder / "out")[0].state_dict()
    for name, value in load_model(tmp_path / "out")[0].state_dict().items():
        torch.testing.assert_close(value, wanted[name], rtol=1e-3, atol=1e-5, msg=name)


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
