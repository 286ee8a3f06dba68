"""What several tests share: small data and an untrained tiny model."""

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from torch.nn import functional

from iapo.attribution.batch import calls_batch, example_inputs
from iapo.config.mini_world import ModelConfig
from iapo.config.schema import DataConfig
from iapo.data.build import build
from iapo.data.prompts import prompt_messages
from iapo.data.store import read_split
from iapo.models.tiny import build_model
from iapo.rollout.encoding import encode_prompt
from iapo.rollout.turns import ToolTurn, turn_ids
from iapo.tools.parsing import render_call
from iapo.types import TEST_SETS, Example, ToolCall

torch.set_num_threads(1)
# What `make test` hands down: a make that a test starts would say which directory it enters, or plan nothing.
for variable in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS"):
    os.environ.pop(variable, None)
# A busy machine is no fault of the code.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty questions a set and split."""
    root = tmp_path_factory.mktemp("data")
    build(DataConfig(train_per_set=40, dev_per_set=20, test_per_set=40), root)
    return root


@pytest.fixture(scope="session")
def test_examples(data_root: Path) -> list[Example]:
    return read_split(data_root, "test", TEST_SETS)


@pytest.fixture(scope="session")
def tiny() -> tuple[Any, Any]:
    """Model in eval mode and processor."""
    model, processor = build_model(ModelConfig(hidden_size=32), seed=0)
    return model.eval(), processor


@pytest.fixture(scope="session")
def trained_looking(tiny: tuple[Any, Any], shake: Callable[[Any, int], Any]) -> Any:
    """The tiny model with weights large enough for attributions to differ, its pad embedding not zero."""
    return shake(copy.deepcopy(tiny[0]), 0)


@pytest.fixture(scope="session")
def shake() -> Callable[[Any, int], Any]:
    """Add noise to a model's weights in place, by a seed, so that its attributions differ; return it in eval mode."""

    def add_noise(model: Any, seed: int) -> Any:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.15 * torch.randn(parameter.shape, generator=generator))
        return model.eval()

    return add_noise


@pytest.fixture(scope="session")
def teach() -> Callable[[Any, Any, list[Example], int], None]:
    """Have a model learn one call for each question by heart, in some steps; few leave it unsure."""

    def learn(model: Any, processor: Any, examples: list[Example], steps: int) -> None:
        turns = []
        for example in examples:
            family, boxes = next(iter(example.figure.boxes.items()))
            text = render_call(ToolCall(f"focus_on_{family}_with_mask", (next(iter(boxes)),)))
            inputs = example_inputs(
                processor, example, encode_prompt(processor, prompt_messages(example), example.figure.kind)
            )
            turns.append(ToolTurn(inputs, turn_ids(processor.tokenizer, text), text, []))
        batch = calls_batch(turns, processor.tokenizer, "cpu")
        fields = {name: batch[name] for name in ("input_ids", "attention_mask", "mm_token_type_ids", "pixel_values")}
        mask = batch["target_mask"][:, 1:]
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        for _ in range(steps):
            logits = model(**fields, image_grid_thw=batch["image_grid_thw"]).logits[:, :-1]
            functional.cross_entropy(logits[mask], batch["input_ids"][:, 1:][mask]).backward()
            optimizer.step()
            optimizer.zero_grad()

    return learn
