"""What several tests share: small data and an untrained tiny model."""

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

from iapo.config.mini_world import ModelConfig
from iapo.config.schema import DataConfig
from iapo.data.build import build
from iapo.data.store import read_split
from iapo.models.tiny import build_model
from iapo.types import TEST_SETS, Example

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
