"""The vision tower's attention with all windows of one size in one call.

Qwen2.5-VL attends within windows of 8 × 8 patches in most layers. Without a kernel for sequences of different lengths
transformers calls attention once a window, and reads the lengths back from the GPU in every layer: launches cost more
than arithmetic then. An image has windows of at most four sizes, so four calls do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl

_Attention: Any = modeling_qwen2_5_vl.Qwen2_5_VLVisionAttention
_one_by_one = _Attention.forward


def batch_windows() -> None:
    """Let every Qwen2.5-VL of this process attend to windows of one size together, TRL's reference included.

    Other implementations of attention than ``sdpa`` are left as they are.
    """
    _Attention.forward = _by_size


def _by_size(
    self: Any,
    hidden_states: Tensor,
    cu_seqlens: Tensor,
    position_embeddings: tuple[Tensor, Tensor],
    **more: Any,
) -> Tensor:
    if self.config._attn_implementation != "sdpa":
        one_by_one: Tensor = _one_by_one(
            self, hidden_states, cu_seqlens, position_embeddings=position_embeddings, **more
        )
        return one_by_one
    queries, keys, values = self.qkv(hidden_states).unflatten(-1, (3, self.num_heads, -1)).unbind(1)
    queries, keys = modeling_qwen2_5_vl.apply_rotary_pos_emb_vision(queries, keys, *position_embeddings)
    sizes, place = windows_by_size(cu_seqlens)
    attended, first = [], 0
    if place is not None:
        queries, keys, values = (each[place.order] for each in (queries, keys, values))
    for size, count in sizes:
        # [windows, heads, size, width]
        query, key, value = (
            each[first : first + size * count].unflatten(0, (count, size)).transpose(1, 2)
            for each in (queries, keys, values)
        )
        found = functional.scaled_dot_product_attention(query, key, value, scale=self.scaling)
        attended.append(found.transpose(1, 2).flatten(2).flatten(0, 1))
        first += size * count
    joined = attended[0] if place is None else torch.cat(attended)[place.inverse]
    projected: Tensor = self.proj(joined)
    return projected


@dataclass(frozen=True)
class Place:
    """Where tokens go so that windows of one size lie together, and back."""

    order: Tensor
    inverse: Tensor


def windows_by_size(cu_seqlens: Tensor) -> tuple[list[tuple[int, int]], Place | None]:
    """Return each size of window with the number of its windows, and the tokens' order by size.

    Args:
        cu_seqlens: [windows + 1] where each window starts, and where the last ends. What follows from it is kept with
            it, since all layers of a pass share it.

    Returns:
        Sizes and counts, and the order; None where all windows have one size.
    """
    kept: tuple[list[tuple[int, int]], Place | None] | None = getattr(cu_seqlens, "iapo_windows", None)
    if kept is not None:
        return kept
    starts, sizes = cu_seqlens[:-1].long(), cu_seqlens.diff().long()
    found = [(size, int((sizes == size).sum())) for size in sizes.unique().tolist() if size]
    place = None
    if len(found) > 1:
        of_size = [starts[sizes == size, None] + torch.arange(size, device=cu_seqlens.device) for size, _ in found]
        order = torch.cat([tokens.flatten() for tokens in of_size])
        place = Place(order, order.argsort())
    cu_seqlens.iapo_windows = found, place  # type: ignore[attr-defined]
    return found, place
