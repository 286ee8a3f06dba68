"""A prompt's keys and values in every layer, and how they change with each of its blocks.

Block sums of integrated gradients need one derivative a block, along the block's difference from its baseline, and
not the gradient of every call in every token. So each block sends one tangent through the prompt (forward-mode
differentiation), once for all calls of that prompt. PyTorch's own forward mode would take a copy of the prompt for
every block and carry zeros through all that stands in front of it; here the decoder layers of Qwen2.5-VL
(transformers' ``Qwen2_5_VLDecoderLayer``) are written out with tangents, from a block's first token on. Nothing
behind the last layer's keys and values is computed: a call reads no more of its prompt.

Shapes: N rows (points × prompts), P prompt tokens, D channels, H heads, d channels a head, Q tangent columns: those
of each block from its first token on, one block after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb, repeat_kv

_SCORES_TOGETHER = 2**20
"""Attention scores held at a time, numbers: 4 MB in fp32, which a core keeps at hand: at 1,500 tokens 64 MB take three
times as long. Longer prompts take their queries in several turns."""


@dataclass(frozen=True)
class TangentColumns:
    """Where the tangents of the blocks live."""

    length: int
    """P."""
    starts: list[int]
    """[K] column of each block's first token in any row; P for a block that no row has."""
    column: Tensor
    """[Q] of the prompt."""
    block: Tensor
    """[Q] whose tangent it is."""

    @staticmethod
    def of(blocks_NP: Tensor, blocks: int) -> TangentColumns:
        """Lay the columns of ``blocks`` blocks out; none leaves the prompt alone."""
        length = blocks_NP.shape[1]
        first = [(blocks_NP == k).any(0).nonzero()[:1, 0].tolist() for k in range(blocks)]
        starts = [column[0] if column else length for column in first]
        columns = [torch.arange(start, length, device=blocks_NP.device) for start in starts]
        owners = [torch.full_like(column, k) for k, column in enumerate(columns)]
        none = blocks_NP.new_zeros(0)
        return TangentColumns(length, starts, torch.cat([none, *columns]), torch.cat([none, *owners]))

    def split(self, values: Tensor, dim: int) -> Sequence[Tensor]:
        """Views of each block's own columns."""
        return values.split([self.length - start for start in self.starts], dim)


@dataclass(frozen=True)
class LayerMemory:
    """What one layer keeps of the prompts for the tokens that follow."""

    keys: Tensor
    """[N, H, P, d] rotated."""
    values: Tensor
    """[N, H, P, d]"""
    key_tangents: Tensor
    """[N, H, Q, d]"""
    value_tangents: Tensor
    """[N, H, Q, d]"""


def has_tangents(model: Any) -> bool:
    """Whether the model's decoder is the one that is written out here: full attention in every layer."""
    text: Any = getattr(getattr(model, "model", None), "language_model", None)
    return type(text).__name__ == "Qwen2_5_VLTextModel" and set(text.config.layer_types) == {"full_attention"}


@torch.no_grad()
def prompt_memory(
    text: Any,
    embeddings_NPD: Tensor,
    directions_NQD: Tensor,
    positions_3NP: Tensor,
    mask_NP: Tensor,
    at: TangentColumns,
) -> list[LayerMemory]:
    """Run prompts through the decoder with one tangent a block.

    Args:
        text: a ``Qwen2_5_VLTextModel`` in eval mode.
        embeddings_NPD: merged input embeddings, left-padded.
        directions_NQD: how the embeddings move with each block: zero but at the block's own tokens.
        positions_3NP: M-RoPE positions.
        mask_NP: 1 at tokens, 0 at padding.
        at: the tangents' columns.

    Returns:
        One memory a layer.
    """
    x, dx = embeddings_NPD, directions_NQD
    rotation = text.rotary_emb(x, positions_3NP)
    rotation_at = tuple(each[:, at.column] for each in rotation)
    memories: list[LayerMemory] = []
    for layer in text.layers:
        attention = layer.self_attn

        def heads(values: Tensor, size: int = attention.head_dim) -> Tensor:
            return values.unflatten(-1, (-1, size)).transpose(1, 2)

        normed = _norm(layer.input_layernorm, x, dx, at)
        (k, dk), (v, dv) = (map(heads, _linear(part, *normed)) for part in (attention.k_proj, attention.v_proj))
        last = layer is text.layers[-1]
        # Nobody asks what the last layer's queries find.
        q, dq = (k[:, :0], dk[:, :0]) if last else map(heads, _linear(attention.q_proj, *normed))
        q, k = apply_rotary_pos_emb(q, k, *rotation)
        dq, dk = apply_rotary_pos_emb(dq, dk, *rotation_at)
        memories.append(LayerMemory(k, v, dk, dv))
        if last:
            break
        mixed = _attention((q, dq), memories[-1], mask_NP, at, attention)
        x, dx = _add((x, dx), _linear(attention.o_proj, *mixed))
        x, dx = _add((x, dx), _mlp(layer.mlp, *_norm(layer.post_attention_layernorm, x, dx, at), at))
    return memories


def _add(values: tuple[Tensor, Tensor], others: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return values[0] + others[0], values[1] + others[1]


def _linear(layer: nn.Module, x: Tensor, dx: Tensor) -> tuple[Tensor, Tensor]:
    if isinstance(layer, nn.Linear):
        return layer(x), functional.linear(dx, layer.weight)
    # An adapter around a linear layer is affine too.
    return layer(x), layer(dx) - layer(torch.zeros_like(dx[:1, :1]))


def _norm(norm: Any, x: Tensor, dx: Tensor, at: TangentColumns) -> tuple[Tensor, Tensor]:
    scale = (x.float().square().mean(-1, keepdim=True) + norm.variance_epsilon).rsqrt()
    unit = x.float() * scale
    moved = torch.empty_like(dx, dtype=torch.float32)
    for start, dx_k, out in zip(at.starts, at.split(dx, 1), at.split(moved, 1), strict=True):
        along = (unit[:, start:] * dx_k).mean(-1, keepdim=True)
        torch.addcmul(dx_k.float(), unit[:, start:], along, value=-1, out=out)
        out.mul_(scale[:, start:])
    return norm.weight * unit.to(x.dtype), norm.weight * moved.to(x.dtype)


def _mlp(mlp: Any, x: Tensor, dx: Tensor, at: TangentColumns) -> tuple[Tensor, Tensor]:
    gate, d_gate = _linear(mlp.gate_proj, x, dx)
    up, d_up = _linear(mlp.up_proj, x, dx)
    open_ = gate.sigmoid()
    active = gate * open_
    slope = open_ * (1 + gate - active) * up
    for start, of_gate, of_up in zip(at.starts, at.split(d_gate, 1), at.split(d_up, 1), strict=True):
        of_gate.mul_(slope[:, start:]).addcmul_(active[:, start:], of_up)
    return _linear(mlp.down_proj, active * up, d_gate)


def _attention(
    query: tuple[Tensor, Tensor], memory: LayerMemory, mask_NP: Tensor, at: TangentColumns, attention: Any
) -> tuple[Tensor, Tensor]:
    """Causal attention of the prompt to itself and its tangents, [N, P, H·d] and [N, Q, H·d]."""
    repeat: Callable[[Tensor], Tensor] = lambda values: repeat_kv(values, attention.num_key_value_groups)  # noqa: E731
    # Scaled once here instead of every score.
    q, dq = (values * attention.scaling for values in query)
    k, v = repeat(memory.keys), repeat(memory.values)
    rows, heads, length, _ = q.shape
    of_block = [at.split(values, 2) for values in (dq, repeat(memory.key_tangents), repeat(memory.value_tangents))]
    mixed, d_mixed = torch.empty_like(q), torch.empty_like(dq)
    together = max(1, _SCORES_TOGETHER // (rows * heads * length))
    for first in range(0, length, together):
        end = min(first + together, length)
        keys, values = k[:, :, :end], v[:, :, :end]
        scores = q[:, :, first:end] @ keys.transpose(2, 3)
        p = scores.masked_fill_(_hidden(mask_NP, first, end), -torch.inf).softmax(-1).to(q.dtype)
        mixed[:, :, first:end] = p @ values
        for start, out, dq_k, dk_k, dv_k in zip(at.starts, at.split(d_mixed, 2), *of_block, strict=True):
            begin = max(first, start)
            if begin >= end:
                continue
            here, p_here = slice(begin - start, end - start), p[:, :, begin - first :]
            scores = dq_k[:, :, here] @ keys.transpose(2, 3)
            scores[..., start:] += q[:, :, begin:end] @ dk_k[:, :, : end - start].transpose(2, 3)
            weighted = scores.mul_(p_here)
            moved = weighted.addcmul_(p_here, weighted.sum(-1, keepdim=True), value=-1)
            out[:, :, here] = moved @ values + p_here[..., start:] @ dv_k[:, :, : end - start]
    return tuple(values.transpose(1, 2).flatten(2) for values in (mixed, d_mixed))  # type: ignore[return-value]


def _hidden(mask_NP: Tensor, first: int, end: int) -> Tensor:
    """[N, 1, queries, keys]: what the queries from ``first`` to ``end`` do not see; padding sees itself alone."""
    columns = torch.arange(end, device=mask_NP.device)
    later = columns > columns[first:, None]
    other = columns != columns[first:, None]
    return (later | (~mask_NP[:, None, :end].bool() & other))[:, None]
