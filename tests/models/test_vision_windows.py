"""Windows that are attended to together give what they give one by one, and cost a tenth of the calls."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VisionTransformerPretrainedModel as VisionTower,
)

from iapo.models import vision_windows
from iapo.models.vision_windows import batch_windows, windows_by_size

GRIDS = torch.tensor([[1, 20, 36], [1, 28, 14]])
"""Two images; neither is a whole number of windows of 8 patches."""


@pytest.fixture
def tower() -> Iterator[Any]:
    config = Qwen2_5_VLVisionConfig(
        depth=3, hidden_size=32, intermediate_size=48, num_heads=2, out_hidden_size=32, fullatt_block_indexes=[1]
    )
    config._attn_implementation = "sdpa"
    torch.manual_seed(0)
    attention = vision_windows._Attention
    before = attention.forward
    # As transformers has it, whatever models were loaded before.
    attention.forward = vision_windows._one_by_one
    yield VisionTower(config)
    attention.forward = before


class Calls(TorchDispatchMode):
    """Counts the operations that run something: a view does not."""

    count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not function.is_view
        return function(*args, **(kwargs or {}))


def features(tower: Any) -> tuple[torch.Tensor, list[torch.Tensor]]:
    pixels = torch.randn(int(GRIDS.prod(-1).sum()), 3 * 2 * 14 * 14, generator=torch.Generator().manual_seed(1))
    found = tower(pixels, grid_thw=GRIDS).pooler_output
    found.square().sum().backward()
    gradients = [parameter.grad.clone() for parameter in tower.parameters()]
    tower.zero_grad()
    return found.detach(), gradients


def test_outputs_and_gradients_are_those_of_the_loop(tower: Any) -> None:
    one_by_one = features(tower)
    batch_windows()
    together = features(tower)
    assert torch.allclose(together[0], one_by_one[0], atol=1e-5)
    for found, wanted in zip(together[1], one_by_one[1], strict=True):
        assert torch.allclose(found, wanted, atol=1e-5 * wanted.abs().max().item() + 1e-6)


def operations(attention: Any, windows: int) -> int:
    """Operations of one layer behind the first over windows of 8 × 8 patches."""
    ends = torch.arange(0, windows * 64 + 1, 64, dtype=torch.int32)
    x = torch.randn(windows * 64, 32)
    angles = (torch.zeros(windows * 64, 16), torch.zeros(windows * 64, 16))
    with torch.no_grad():
        attention(x, cu_seqlens=ends, position_embeddings=angles)
        with Calls() as calls:
            attention(x, cu_seqlens=ends, position_embeddings=angles)
    return calls.count


def test_windows_cost_a_tenth_of_the_calls(tower: Any) -> None:
    # 92 × 116 patches, an image of 1,500 tokens: 180 windows. One window costs a layer's own operations.
    attention = tower.blocks[0].attn
    alone, one_by_one = operations(attention, 1), operations(attention, 180)
    batch_windows()
    assert operations(attention, 180) <= one_by_one / 10
    assert operations(attention, 180) <= alone


@given(st.lists(st.integers(0, 9), min_size=1, max_size=20).filter(any))
def test_every_token_is_in_one_window(sizes: list[int]) -> None:
    found, place = windows_by_size(torch.tensor([0, *sizes]).cumsum(0).to(torch.int32))
    assert dict(found) == {size: sizes.count(size) for size in set(sizes) - {0}}
    assert (place is None) == (len(found) == 1)
    if place is not None:
        assert sorted(place.order.tolist()) == list(range(sum(sizes)))
        assert place.order[place.inverse].tolist() == list(range(sum(sizes)))
