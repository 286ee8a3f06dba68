"""A run whose KL reference is not the starting policy stops before its first update; tokenized prompts stay bounded."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from trl.trainer import grpo_trainer

from baselines import METHODS
from iapo.config.schema import Config, TrainConfig
from iapo.models.loading import save_model
from iapo.training import rollout_recorder
from iapo.training.guards import RolloutFault
from iapo.training.run import train
from iapo.training.trainer import FigureTrainer
from iapo.types import Example

pytestmark = pytest.mark.gpu_run

SHORT = TrainConfig(steps=1, groups_per_step=2, group_size=2, prompts_per_set=1, kl_beta=0.1)


def run(tiny: tuple[Any, Any], examples: list[Example], folder: Path, settings: TrainConfig) -> list[dict[str, float]]:
    save_model(*tiny, folder / "model")
    return train(
        METHODS["vtool_r1"], Config(profile="test", train=settings), examples, start=folder / "model",
        run_dir=folder / "work", output=folder / "out", seed=0,
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore")
def test_the_checkpoint_as_reference_has_no_kl_at_first(
    tiny: tuple[Any, Any], test_examples: list[Example], tmp_path: Path
) -> None:
    (row,) = run(tiny, test_examples, tmp_path, SHORT)
    assert abs(row["kl"]) < 1e-6


@pytest.mark.filterwarnings("ignore")
def test_another_reference_stops_the_run_before_its_first_update(
    tiny: tuple[Any, Any], test_examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    created = grpo_trainer.create_model_from_path

    def zeros(*args: Any, **kwargs: Any) -> Any:
        model = created(*args, **kwargs)
        with torch.no_grad():
            model.get_input_embeddings().weight.zero_()
        return model

    monkeypatch.setattr(grpo_trainer, "create_model_from_path", zeros)
    with pytest.raises(RolloutFault, match=r"found a KL of .* before the first update.*kl_beta: 0"):
        run(tiny, test_examples, tmp_path, SHORT)
    assert not list((tmp_path / "out").glob("*.safetensors"))


@pytest.mark.filterwarnings("ignore")
def test_tokenized_prompts_do_not_pile_up(
    tiny: tuple[Any, Any], test_examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    tokenized = FigureTrainer._tokenize_prompts

    def counted(self: FigureTrainer, *args: Any) -> Any:
        found = tokenized(self, *args)
        sizes.append(len(self._prompt_memo))
        return found

    monkeypatch.setattr(FigureTrainer, "_tokenize_prompts", counted)
    monkeypatch.setattr(rollout_recorder, "_MEMO_BYTES", 0)
    run(tiny, test_examples, tmp_path, replace(SHORT, steps=3, prompts_per_set=3, kl_beta=0.0))
    assert len(sizes) >= 3 and max(sizes) <= SHORT.groups_per_step
