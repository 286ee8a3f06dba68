"""Micro-batches without their padding score what whole ones do."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import Trainer
from trl import GRPOTrainer
from trl.trainer import grpo_trainer

from baselines import METHODS
from iapo.config.schema import Config, HardwareConfig, TrainConfig
from iapo.models.loading import save_model
from iapo.training import sharded_mixin
from iapo.training.run import train
from iapo.training.sharded_mixin import sharded_reference
from iapo.training.trainer import FigureTrainer
from iapo.training.trimmed_pass import TrimmedPassMixin, attended_columns
from iapo.types import Example

pytestmark = pytest.mark.gpu_run


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 6), st.integers(0, 5)), min_size=1, max_size=5))
def test_no_attended_token_is_cut_and_no_column_of_padding_left(rows: list[tuple[int, int, int]]) -> None:
    width = max(sum(row) for row in rows)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for i, (left, tokens, _) in enumerate(rows):
        mask[i, left : left + tokens] = 1
    kept, cut = attended_columns(mask)
    assert mask[:, kept].sum() == mask.sum() and cut == width - kept.stop
    assert mask[:, kept][:, 0].any() and mask[:, kept][:, -1].any()


def test_trl_builds_the_reference_as_accelerate_shards_the_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []

    def built(*_: Any, **__: Any) -> None:
        seen.append(grpo_trainer.prepare_fsdp)
        raise InterruptedError

    monkeypatch.setattr(GRPOTrainer, "__init__", built)
    with pytest.raises(InterruptedError):
        FigureTrainer()
    assert seen == [sharded_reference] and grpo_trainer.prepare_fsdp is not sharded_reference


@pytest.mark.filterwarnings("ignore")
def test_turns_are_written_by_whole_weights_and_every_pass_has_its_head_gathered_and_its_pixels_in_the_host_s_memory(
    tiny: tuple[Any, Any], test_examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(*tiny, tmp_path / "model")
    gathered: list[object] = []
    whole: list[bool] = []
    moved: list[set[str]] = []

    @contextmanager
    def counted(model: object) -> Iterator[None]:
        gathered.append(model)
        yield

    @contextmanager
    def held(model: object) -> Iterator[None]:
        whole.append(True)
        yield
        whole.append(False)

    def generated(self: GRPOTrainer, prompts: list[Any]) -> Any:
        # Both turns within: a process without a call takes no second one.
        assert whole[-1:] == [True]
        return generate(self, prompts)

    generate = GRPOTrainer._generate
    monkeypatch.setattr(GRPOTrainer, "_generate", generated)

    def input_moved(self: Trainer, data: Any) -> Any:
        moved.append(set(data) if isinstance(data, Mapping) else set())
        return data

    monkeypatch.setattr(sharded_mixin, "gathered_head", counted)
    monkeypatch.setattr(sharded_mixin, "held_whole", held)
    monkeypatch.setattr(Trainer, "_prepare_input", input_moved)
    settings = TrainConfig(steps=1, groups_per_step=2, group_size=2, prompts_per_set=1, kl_beta=0.1)
    train(
        METHODS["vtool_r1"], Config(profile="test", train=settings), test_examples, start=tmp_path / "model",
        run_dir=tmp_path / "work", output=tmp_path / "out", seed=0,
    )  # fmt: skip
    # The policy and its reference.
    assert len({id(model) for model in gathered}) == 2 and whole
    assert any("input_ids" in names for names in moved) and not any("pixel_values" in names for names in moved)


@pytest.mark.filterwarnings("ignore")
def test_a_step_in_passes_of_one_is_that_of_whole_ones_with_less_padding(
    tiny: tuple[Any, Any], test_examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(*tiny, tmp_path / "model")
    settings = TrainConfig(steps=1, groups_per_step=3, group_size=2, prompts_per_set=1, kl_beta=0.1)
    rows = {}
    for name in ("whole", "trimmed"):
        if name == "whole":
            monkeypatch.delattr(TrimmedPassMixin, "_get_per_token_logps_and_entropies")
        config = Config(profile="test", train=settings, hardware=HardwareConfig(rollouts_per_forward=1))
        (rows[name],) = train(
            METHODS["vtool_r1"], config, test_examples, start=tmp_path / "model",
            run_dir=tmp_path / f"work_{name}", output=tmp_path / name, seed=0,
        )  # fmt: skip
        monkeypatch.undo()
    assert rows["trimmed"]["passes/padding"] == pytest.approx(0, abs=1e-6)
    assert rows["trimmed"]["passes/padding_untrimmed"] > 0.01
    for name in ("loss", "grad_norm", "entropy", "kl", "reward"):
        assert rows["trimmed"][name] == pytest.approx(rows["whole"][name], rel=1e-3, abs=1e-6)
