"""A step's pixels stay in the host's memory, and reach the device with the pass that reads them."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import BatchFeature, Trainer

from iapo.training.host_pixels import HostPixelsMixin, fetch_pixels

pytestmark = pytest.mark.gpu_run


class Moving(HostPixelsMixin, Trainer):
    """Moves inputs to a device without memory, as a stand-in for a GPU."""

    def __init__(self) -> None:
        vars(self).update(args=SimpleNamespace(device=torch.device("meta")), is_deepspeed_enabled=False)


def test_all_but_the_pixels_are_moved() -> None:
    given = BatchFeature({"input_ids": torch.ones(2, 3), "pixel_values": torch.ones(4, 5)})
    moved = Moving()._prepare_inputs(given)
    assert isinstance(moved, BatchFeature) and set(moved) == {"input_ids", "pixel_values"}
    assert moved["input_ids"].device.type == "meta" and moved["pixel_values"].device.type == "cpu"


def test_the_vision_tower_fetches_its_pixels(tiny: tuple[Any, Any]) -> None:
    tower = type(tiny[0].model.visual)(tiny[0].model.visual.config).to("meta")
    fetch_pixels(torch.nn.ModuleList([tower]))
    [fetch] = tower._forward_pre_hooks.values()
    patches = torch.ones(4, tower.patch_embed.proj.weight[0].numel())
    assert fetch(tower, (patches,))[0].device.type == "meta"
