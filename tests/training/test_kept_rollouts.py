"""Rollouts kept at every checkpoint: which, what they say, and that Hugging Face's datasets read them with figures."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import load_dataset
from PIL import Image

from baselines import METHODS
from iapo.artifacts.code_digest import ROOT
from iapo.config.schema import AlignmentConfig, Config, TrainConfig
from iapo.data.prompts import open_image
from iapo.data.store import figure_from_json
from iapo.models.loading import save_model
from iapo.teacher.writer import CacheWriter
from iapo.training.attribution_mixin import AlignmentTrainer
from iapo.training.kept_rollouts import FOLDER, KEPT_GROUPS
from iapo.training.run import train
from iapo.training.trainer import Sources
from iapo.types import Example

SHORT = TrainConfig(steps=5, save_every=2, groups_per_step=2, group_size=4, prompts_per_set=1)
STUDENT, TEACHER = [3.0, 1, 0, 0], [1.0, 0, 0, 1]


def trained(
    method: str, tiny: tuple[Any, Any], examples: list[Example], folder: Path, settings: TrainConfig = SHORT
) -> list[Path]:
    """Train a few steps of a policy; return the files of kept rollouts."""
    save_model(*tiny, folder / "start")
    CacheWriter(folder / "cache", "empty")
    config = Config(profile="test", train=settings, alignment=AlignmentConfig(weight=0.5))
    train(
        METHODS[method], config, examples, start=folder / "start", seed=0, run_dir=folder / "work",
        output=folder / "out", sources=Sources(cache=folder / "cache"),
    )  # fmt: skip
    return sorted((folder / "work" / FOLDER).iterdir())


@pytest.fixture
def advantages(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """The advantages of each step, as TRL gets them; the student's and the teacher's attributions are known."""
    found: list[torch.Tensor] = []
    original = AlignmentTrainer._generate_and_score_completions

    def attribute(self: AlignmentTrainer, inputs: list[Any]) -> None:
        for i, row in enumerate(inputs):
            row["prompt_key"], row["cache_hit"] = row["example_id"], "exact" if i % 2 else None
            row["student_block_sums"] = STUDENT if i % 2 else None
            row["teacher_block_sums"] = TEACHER if i % 2 else None

    def scored(self: AlignmentTrainer, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output = original(self, inputs)
        found.append(output["advantages"])
        return output

    monkeypatch.setattr(AlignmentTrainer, "_attribute", attribute)
    monkeypatch.setattr(AlignmentTrainer, "_generate_and_score_completions", scored)
    return found


@pytest.mark.filterwarnings("ignore")
def test_rollouts_are_kept_at_every_checkpoint_with_all_that_the_loss_saw(
    advantages: list[torch.Tensor], tiny: tuple[Any, Any], test_examples: list[Example], tmp_path: Path
) -> None:
    files = trained("iapo", tiny, test_examples, tmp_path)
    assert [file.name for file in files] == ["step000002.parquet", "step000004.parquet", "step000005.parquet"]
    data = load_dataset("parquet", data_files=[str(files[1])], split="train", cache_dir=str(tmp_path / "hf"))
    assert data["step"] == [4] * 8 and data["group"] == [0] * 4 + [1] * 4
    torch.testing.assert_close(torch.tensor(data["advantage"]), advantages[3].float())
    examples = {example.example_id: example for example in test_examples}
    for i, row in enumerate(data):
        example = examples[row["example_id"]]
        assert isinstance(row["image"], Image.Image) and row["image"].tobytes() == open_image(example).tobytes()
        assert (row["request"], row["answer"]) == (example.request, example.answer)
        assert figure_from_json(row["figure"]) == example.figure
        assert row["weight/alignment_reward"] == 0.5 and row["reward/outcome_reward"] in (0.0, 1.0)
        assert row["student_shares"] == ([0.75, 0.25, 0, 0] if i % 2 else None)
        assert row["teacher_shares"] == ([0.5, 0, 0, 0.5] if i % 2 else None) and row["cache_hit"] == (
            "exact" if i % 2 else None
        )
        assert row["call_status"] in ("none", "malformed", "failed", "executed") and row["turns"]


@pytest.mark.filterwarnings("ignore")
def test_a_method_without_a_teacher_keeps_its_rollouts_too_and_only_some_groups(
    tiny: tuple[Any, Any], test_examples: list[Example], tmp_path: Path
) -> None:
    settings = replace(SHORT, steps=1, groups_per_step=KEPT_GROUPS + 1, group_size=2, prompts_per_set=2)
    (file,) = trained("vtool_r1", tiny, test_examples, tmp_path, settings)
    data = load_dataset("parquet", data_files=[str(file)], split="train", cache_dir=str(tmp_path / "hf"))
    assert sorted(set(data["group"])) == list(range(KEPT_GROUPS)) and len(data) == 2 * KEPT_GROUPS
    assert data["student_shares"] == [None] * len(data) == data["cache_hit"]
    assert [name for name in data.column_names if name.startswith("reward/")] == ["reward/outcome_reward"]
    assert json.loads(data[0]["figure"])["figure_id"]
    assert KEPT_GROUPS == 8 and "up to eight groups" in (ROOT / "docs/look_at_rollouts.md").read_text()
