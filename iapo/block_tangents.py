"""Tokens in every layer of the decoder, and how they change with each block of a prompt.

Block sums of integrated gradients need one derivative a block, along the block's difference from its baseline, and
not the gradient of every call in every token. So each block sends one tangent through the prompt and through what
follows it (forward-mode differentiation), once for all calls of that prompt. PyTorch's own forward mode would take a
copy of the prompt for every block and carry zeros through all that stands in front of it; here the decoder layers of
Qwen2.5-VL (transformers' ``Qwen2_5_VLDecoderLayer``) are written out with tangents, from a block's first token on. Of a
prompt nothing behind the last layer's keys and values is computed: what follows reads no more of it.

Tokens and tangents pass the linear layers side by side, as one tensor: first the tokens, then the tangents of each
block from the first token on that it moves, one block after the other.

Shapes: N rows (prompts at points of their paths), L tokens, Q tangents of all blocks, M = L + Q, D channels, H heads,
d channels a head, k blocks that move the same tokens, b of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLTextModel, repeat_kv

from iapo.precision import exact_products, full_precision, in_precision_of, passed

_Hidden = Callable[[int, int], Tensor]
"""First and end of some queries → what is added to their scores of all tokens up to the last of them: 0, or -inf at
what they do not see."""

_SCORES_TOGETHER = {"cpu": 2**20, "cuda": 2**26}
"""Attention scores held at a time, numbers; longer prompts take their queries in several turns. 4 MB in fp32 a core
keeps at hand: at 1,500 tokens 64 MB take three times as long. A GPU would start a hundred small kernels
in place of a large one."""


@dataclass(frozen=True)
class Columns:
    """Where tokens and tangents stand in a tensor of both."""

    length: int
    """L."""
    starts: tuple[int, ...] = ()
    """Per block the first token in any row that it moves; L for a block that no row has."""

    @staticmethod
    def of_prompts(blocks_NL: Tensor, blocks: int) -> Columns:
        """Those of prompts: a block moves its own tokens and what stands behind them."""
        length = blocks_NL.shape[1]
        first = [(blocks_NL == k).any(0).nonzero()[:1, 0].tolist() for k in range(blocks)]
        return Columns(length, tuple(column[0] if column else length for column in first))

    @cached_property
    def token(self) -> Tensor:
        """[Q] token of each tangent."""
        return torch.cat([torch.arange(0), *(torch.arange(start, self.length) for start in self.starts)])

    @cached_property
    def block(self) -> Tensor:
        """[Q] block of each tangent."""
        lengths = torch.tensor([self.length - start for start in self.starts], dtype=torch.long)
        return torch.arange(len(self.starts)).repeat_interleave(lengths)

    def tokens(self, values: Tensor, dim: int = 1) -> Tensor:
        """A view of the tokens' part."""
        return values.narrow(dim, 0, self.length)

    def tangents(self, values: Tensor, dim: int = 1) -> Iterator[tuple[int, Tensor]]:
        """First token and view of the tangents of each run of blocks that move the same: [.., k, L - first, ..]."""
        at = self.length
        for start, run in groupby(self.starts):
            count, moved = len(list(run)), self.length - start
            if moved:
                yield start, values.narrow(dim, at, count * moved).unflatten(dim, (count, moved))
            at += count * moved


@dataclass(frozen=True)
class LayerMemory:
    """What one layer keeps of some tokens for those that follow."""

    keys: Tensor
    """[N, H, M, d] rotated."""
    values: Tensor
    """[N, H, M, d]"""
    at: Columns

    def repeated(self, times: int) -> LayerMemory:
        """For each of the query heads that share them."""
        return LayerMemory(repeat_kv(self.keys, times), repeat_kv(self.values, times), self.at)

    def tokens(self) -> tuple[Tensor, Tensor]:
        """Keys and values of the tokens."""
        return self.at.tokens(self.keys, 2), self.at.tokens(self.values, 2)

    def blocks(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """First token of each block, and its tangents of keys and values: [N, H, L - first, d]."""
        column = self.at.length
        for start in self.at.starts:
            length = self.at.length - start
            yield start, self.keys.narrow(2, column, length), self.values.narrow(2, column, length)
            column += length


def has_tangents(model: Any) -> bool:
    """Whether the model's decoder is the one that is written out here: full attention in every layer."""
    text: Any = getattr(getattr(model, "model", None), "language_model", None)
    return isinstance(text, Qwen2_5_VLTextModel) and set(text.config.layer_types or []) == {"full_attention"}


@torch.no_grad()
def prompt_memory(
    text: Any, embeddings_NMD: Tensor, positions_3NL: Tensor, mask_NL: Tensor, at: Columns
) -> list[LayerMemory]:
    """Run prompts through the decoder with one tangent a block.

    Args:
        text: a ``Qwen2_5_VLTextModel`` in eval mode.
        embeddings_NMD: merged input embeddings, left-padded, and how they move with each block: by zero but at the
            block's own tokens.
        positions_3NL: M-RoPE positions.
        mask_NL: 1 at tokens, 0 at padding.
        at: where tokens and tangents are.

    Returns:
        One memory a layer.
    """
    x = embeddings_NMD
    with exact_products(x.device):
        rotation = _rotation(text.rotary_emb(x, positions_3NL), at)
    memories: list[LayerMemory] = []
    # The same in every layer, where all queries go together.
    hidden = lru_cache(1)(partial(_hidden, mask_NL))
    for layer in text.layers:
        normed = _norm(layer.input_layernorm, x, at)
        memories.append(_memory(layer.self_attn, normed, rotation, at))
        # Nobody asks what the last layer's queries find.
        if layer is not text.layers[-1]:
            query = _rotated(_heads(layer.self_attn, "q_proj", normed, at), rotation)
            # The stream keeps its precision where autocast lowers that of the layers.
            x = _attention(layer.self_attn, query, at, memories[-1], None, hidden).to(x.dtype).add_(x)
            x = _mlp(layer.mlp, _norm(layer.post_attention_layernorm, x, at), at).to(x.dtype).add_(x)
    return memories


@torch.no_grad()
def behind_prompts(
    text: Any, prompts: list[LayerMemory], embeddings_NLD: Tensor, positions_3NL: Tensor, seen: Tensor
) -> tuple[Tensor, Tensor]:
    """Run what follows the prompts through the decoder, up to the last layer's MLP.

    Args:
        text: a ``Qwen2_5_VLTextModel`` in eval mode.
        prompts: from :func:`prompt_memory`.
        embeddings_NLD: input embeddings of the tokens that follow, which do not move by themselves.
        positions_3NL: M-RoPE positions.
        seen: bool [N, L, prompt + L] which tokens of the prompt and of these a token sees.

    Returns:
        What enters the last layer's second half, [N, L, D], and its tangents, [N, K, L, D].
    """
    length, blocks = embeddings_NLD.shape[1], len(prompts[0].at.starts)
    before = seen.shape[2] - length
    unseen = _minus_infinity(~seen[:, None])
    hidden: _Hidden = lambda first, end: unseen[:, :, first:end, : before + end]  # noqa: E731
    moving = Columns(length, (0,) * blocks)
    # The prompt moves them from the first attention on.
    x, at = embeddings_NLD, Columns(length)
    with exact_products(x.device):
        turned = text.rotary_emb(x, positions_3NL)
    of_tokens, of_all = _rotation(turned, at), _rotation(turned, moving)
    for layer, prompt in zip(text.layers, prompts, strict=True):
        rotation = of_all if at is moving else of_tokens
        normed = _norm(layer.input_layernorm, x, at)
        own = _memory(layer.self_attn, normed, rotation, at)
        query = _rotated(_heads(layer.self_attn, "q_proj", normed, at), rotation)
        added = _attention(layer.self_attn, query, at, own, prompt, hidden)
        added[:, : x.shape[1]] += x
        x, at = added, moving
        if layer is not text.layers[-1]:
            x = _mlp(layer.mlp, _norm(layer.post_attention_layernorm, x, at), at).add_(x)
    return x[:, :length], x[:, length:].unflatten(1, (blocks, length))


def _rotation(turned: tuple[Tensor, Tensor], at: Columns) -> tuple[Tensor, Tensor]:
    """Cosine and sine of tokens and tangents, [N, 1, M, d], from those of the tokens."""
    columns = torch.cat([torch.arange(at.length), at.token]).to(turned[0].device)
    cosine, sine = (each[:, None, columns] for each in turned)
    return cosine, sine


def _heads(attention: Any, name: str, normed: Tensor, at: Columns) -> Tensor:
    """[N, H, M, d]"""
    projected = _linear(getattr(attention, name), normed, at)
    return projected.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)


def _rotated(values: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary position embedding, as transformers' ``apply_rotary_pos_emb``."""
    cosine, sine = rotation
    half = values.shape[-1] // 2
    out = torch.empty(values.shape, dtype=torch.promote_types(values.dtype, cosine.dtype), device=values.device)
    torch.mul(values, cosine, out=out)
    out[..., :half].addcmul_(values[..., half:], sine[..., :half], value=-1)
    out[..., half:].addcmul_(values[..., :half], sine[..., half:])
    return out


def _memory(attention: Any, normed: Tensor, rotation: tuple[Tensor, Tensor], at: Columns) -> LayerMemory:
    # In full precision under autocast too: all that follows rests on it, and a layer's other products are far larger.
    with full_precision(normed.device):
        keys = _rotated(_heads(attention, "k_proj", normed, at), rotation)
        return LayerMemory(keys, _heads(attention, "v_proj", normed, at).contiguous(), at)


def _linear(layer: nn.Module, x: Tensor, at: Columns) -> Tensor:
    """Tangents pass without the bias."""
    if isinstance(layer, nn.Linear):
        out = functional.linear(x, in_precision_of(x, layer.weight))
        if layer.bias is not None:
            at.tokens(out).add_(layer.bias)
        return out
    # An adapter around a linear layer is affine too.
    out = passed(layer, x)
    out[:, at.length :] -= passed(layer, torch.zeros_like(x[:1, :1]))
    return out


def _norm(norm: Any, x: Tensor, at: Columns) -> Tensor:
    out = torch.empty_like(x, dtype=torch.float32)
    values = at.tokens(x).float()
    scale = (values.square().mean(-1, keepdim=True) + norm.variance_epsilon).rsqrt()
    unit, weighted = torch.mul(values, scale, out=at.tokens(out)), scale * norm.weight
    for (start, moved), (_, to) in zip(at.tangents(x), at.tangents(out), strict=True):
        unit_here = unit[:, None, start:]
        along = (unit_here * moved).mean(-1, keepdim=True)
        torch.addcmul(moved.float(), unit_here, along, value=-1, out=to).mul_(weighted[:, None, start:])
    unit.mul_(norm.weight)
    return out.to(x.dtype)


def _mlp(mlp: Any, x: Tensor, at: Columns) -> Tensor:
    gates, ups = _linear(mlp.gate_proj, x, at), _linear(mlp.up_proj, x, at)
    gate, up = at.tokens(gates), at.tokens(ups)
    open_ = gate.sigmoid()
    active = gate * open_
    slope = torch.sub(gate, active).add_(1).mul_(open_).mul_(up)
    for (start, of_gate), (_, of_up) in zip(at.tangents(gates), at.tangents(ups), strict=True):
        of_gate.mul_(slope[:, None, start:]).addcmul_(active[:, None, start:], of_up)
    torch.mul(active, up, out=gate)
    return _linear(mlp.down_proj, gates, at)


def _attention(
    attention: Any, query: Tensor, at: Columns, own: LayerMemory, past: LayerMemory | None, hidden: _Hidden
) -> Tensor:
    """What the layer's attention adds to tokens and tangents: [N, M, D].

    Args:
        attention: the layer's.
        query: [N, H, M, d], rotated; changed in place.
        at: the query's columns; without tangents where the tokens do not move yet.
        own: of the same tokens.
        past: of tokens in front of them; its blocks move all tokens of the result.
        hidden: what the tokens do not see.
    """
    # Once here instead of every score; nobody reads the query again.
    query = query.mul_(attention.scaling)
    own = own.repeated(attention.num_key_value_groups)
    keys, values = own.tokens()
    before, earlier = 0, []
    if past is not None:
        past = past.repeated(attention.num_key_value_groups)
        before, earlier = past.at.length, list(past.blocks())
        keys, values = (torch.cat(parts, 2) for parts in zip(past.tokens(), (keys, values), strict=True))
    to = at if past is None else Columns(at.length, (0,) * len(earlier))
    q, own_tangents = at.tokens(query, 2), [list(at.tangents(each, 2)) for each in (query, own.keys, own.values)]
    mixed = q.new_empty(*q.shape[:2], to.length + len(to.token), q.shape[3])
    most = _SCORES_TOGETHER.get(q.device.type, _SCORES_TOGETHER["cuda"])
    together = max(1, most // (q.shape[0] * q.shape[1] * keys.shape[2]))
    for first in range(0, at.length, together):
        end = min(first + together, at.length)
        seen_keys, seen_values = keys[:, :, : before + end], values[:, :, : before + end]
        scores = q[:, :, first:end] @ seen_keys.transpose(2, 3)
        p = scores.add_(hidden(first, end)).softmax(-1).to(q.dtype)
        mixed[:, :, first:end] = p @ seen_values
        for run, (start, out) in enumerate(to.tangents(mixed, 2)):
            begin = max(first, start)
            if begin >= end:
                continue
            here, q_here, p_here = slice(begin - start, end - start), q[:, :, begin:end], p[:, :, begin - first :]
            found = mixed[:, :, begin:end]
            if at.starts:
                of_query, of_keys, of_values = (tangents[run][1][:, :, :, : end - start] for tangents in own_tangents)
                scores = _each(of_query[:, :, :, here], seen_keys.transpose(2, 3))
                scores[..., before + start :] += q_here[:, :, None] @ of_keys.transpose(3, 4)
                weighted = scores.mul_(p_here[:, :, None])
                moved = _each(weighted, seen_values)
                moved.addcmul_(found[:, :, None], weighted.sum(-1, keepdim=True), value=-1)
                moved += p_here[:, :, None, :, before + start :] @ of_values
            else:
                moved = torch.zeros_like(out[:, :, :, here])
            # The same for the past's tangents, which are of unequal number.
            for k, (offset, of_keys, of_values) in enumerate(earlier):
                p_past = p_here[..., offset:before]
                weighted = (q_here @ of_keys.transpose(2, 3)).mul_(p_past)
                moved[:, :, k] += (weighted @ values[:, :, offset:before]).add_(p_past @ of_values)
                moved[:, :, k].addcmul_(found, weighted.sum(-1, keepdim=True), value=-1)
            out[:, :, :, here] = moved
    return _linear(attention.o_proj, mixed.transpose(1, 2).flatten(2), to)


def _each(moving: Tensor, matrix: Tensor) -> Tensor:
    """[N, H, k, b, ·] of several blocks times one matrix [N, H, ·, ·]."""
    return (moving.flatten(2, 3) @ matrix).unflatten(2, moving.shape[2:4])


def _hidden(mask_NL: Tensor, first: int, end: int) -> Tensor:
    """What is added to the scores of a prompt's tokens, [N, 1, queries, keys]; padding sees itself alone."""
    columns = torch.arange(end, device=mask_NL.device)
    later = columns > columns[first:, None]
    other = columns != columns[first:, None]
    return _minus_infinity((later | (~mask_NL[:, None, :end].bool() & other))[:, None])


def _minus_infinity(where: Tensor) -> Tensor:
    return torch.zeros(where.shape, device=where.device).masked_fill_(where, -torch.inf)
