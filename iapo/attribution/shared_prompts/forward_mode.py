"""Forward-mode differentiation through Qwen2.5-VL's decoder: tokens and their tangents, one tangent per prompt block.

The integrated gradient of a block needs one number per path point: the derivative of a call's log-probability along
the block's difference from its baseline. Forward mode gets it by sending a tangent (the directional derivative of the
hidden states) through the decoder, once per block for all calls of a prompt, where reverse mode needs a backward pass
per call. PyTorch's own forward mode would copy the prompt for every block and carry zeros through all tokens in front
of it. So the decoder layers (transformers' ``Qwen2_5_VLDecoderLayer``) are written out here with tangents that begin at
a block's first token. Of a prompt, nothing after the last layer's keys and values is computed, since the calls read no
more of it.

Tokens and tangents pass the linear layers side by side in one tensor: first the tokens, then block after block the
tangents of the tokens from the block's first one on.

Shapes: N rows (prompts at points of their paths), L tokens, Q tangents of all blocks, M = L + Q, D channels, H heads,
d channels a head, k blocks with the same first token, b tokens of each, K all blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from itertools import groupby
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VLAttention,
    Qwen2_5_VLDecoderLayer,
    Qwen2_5_VLRMSNorm,
    Qwen2_5_VLTextModel,
    Qwen2MLP,
    repeat_kv,
)

from iapo.models.precision import exact_products, full_precision, in_precision_of, passed

AttentionBias = Callable[[int, int], Tensor]
"""(first query, one past the last) → what is added to the attention scores of these queries over all keys up to their
last one: 0, or -inf at keys that a query may not see."""


_SCORES_TOGETHER = {"cpu": 2**20, "cuda": 2**26}
"""Attention scores held in memory at a time; longer prompts take their queries in several passes. On a CPU, few enough
for its cache (4 MB in fp32); on a GPU more, since many small kernels would be slower than a few large ones."""


@dataclass(frozen=True)
class TangentLayout:
    """Which column of a tensor of L + Q columns holds which token or tangent.

    A block changes its own tokens and, through attention, all tokens after them; the others need no tangent.
    """

    length: int
    """L, the number of tokens."""
    starts: tuple[int, ...] = ()
    """[K] per block, its first token in any row; L for a block that no row has."""

    @staticmethod
    def of_prompts(blocks_NL: Tensor, blocks: int) -> TangentLayout:
        """Lay out the tangents of prompts.

        Args:
            blocks_NL: block of each token, -1 for none and at padding.
            blocks: K.
        """
        length = blocks_NL.shape[1]
        first = [(blocks_NL == k).any(0).nonzero()[:1, 0].tolist() for k in range(blocks)]
        return TangentLayout(length, tuple(column[0] if column else length for column in first))

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
        """Return a view of the tokens' columns along ``dim``."""
        return values.narrow(dim, 0, self.length)

    def tangents(self, values: Tensor, dim: int = 1) -> Iterator[tuple[int, Tensor]]:
        """Yield views of the tangents, those of neighbouring blocks with the same first token as one.

        Yields:
            The blocks' first token, and their tangents with ``dim`` split into [k, b], b = L - first token.
        """
        column = self.length
        for start, run in groupby(self.starts):
            count, width = len(list(run)), self.length - start
            if width:
                yield start, values.narrow(dim, column, count * width).unflatten(dim, (count, width))
            column += count * width


@dataclass(frozen=True)
class LayerKV:
    """One layer's key/value cache of some tokens, with tangents."""

    keys: Tensor
    """[N, H, M, d], rotary position embedding applied."""
    values: Tensor
    """[N, H, M, d]"""
    layout: TangentLayout
    """Layout of the M columns."""

    def repeated(self, times: int) -> LayerKV:
        """Repeat each key/value head for the query heads that share it."""
        return LayerKV(repeat_kv(self.keys, times), repeat_kv(self.values, times), self.layout)

    def tokens(self) -> tuple[Tensor, Tensor]:
        """Return views of the tokens' keys and values."""
        return self.layout.tokens(self.keys, 2), self.layout.tokens(self.values, 2)

    def blocks(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Yield each block's first token and the tangents of its keys and values [N, H, L - first token, d]."""
        column = self.layout.length
        for start in self.layout.starts:
            length = self.layout.length - start
            yield start, self.keys.narrow(2, column, length), self.values.narrow(2, column, length)
            column += length


def has_tangents(model: nn.Module) -> bool:
    """Return whether the model's decoder is the one written out here: Qwen2.5-VL's with full attention everywhere."""
    text = getattr(getattr(model, "model", None), "language_model", None)
    return isinstance(text, Qwen2_5_VLTextModel) and set(text.config.layer_types or []) == {"full_attention"}


@torch.no_grad()
def prompt_memory(
    text: Qwen2_5_VLTextModel, embeddings_NMD: Tensor, positions_3NL: Tensor, mask_NL: Tensor, layout: TangentLayout
) -> list[LayerKV]:
    """Run prompts through the decoder with one tangent per block.

    Args:
        text: the decoder, in eval mode.
        embeddings_NMD: merged input embeddings, left-padded, and their tangents: a block's difference from its baseline
            at the block's own tokens, zero at other tokens.
        positions_3NL: M-RoPE positions.
        mask_NL: 1 at tokens, 0 at padding.
        layout: of tokens and tangents.

    Returns:
        The key/value cache of each layer.
    """
    x = embeddings_NMD
    with exact_products(x.device):
        rotation = _rotation(text.rotary_emb(x, positions_3NL), layout)
    caches: list[LayerKV] = []
    # Where one pass takes all queries, every layer needs the same bias.
    attention_bias = lru_cache(1)(partial(_attention_bias, mask_NL))
    for layer in _layers(text):
        normed = _norm(layer.input_layernorm, x, layout)
        caches.append(_key_values(layer.self_attn, normed, rotation, layout))
        # Of the last layer only keys and values are needed.
        if layer is not text.layers[-1]:
            query = _rotated(_heads(layer.self_attn, "q_proj", normed, layout), rotation)
            # The residual stream keeps its dtype where autocast lowers that of the layers.
            x = _attention(layer.self_attn, query, layout, caches[-1], None, attention_bias).to(x.dtype).add_(x)
            x = _mlp(layer.mlp, _norm(layer.post_attention_layernorm, x, layout), layout).to(x.dtype).add_(x)
    return caches


@torch.no_grad()
def behind_prompts(
    text: Qwen2_5_VLTextModel,
    prompts: list[LayerKV],
    embeddings_NLD: Tensor,
    positions_3NL: Tensor,
    attention_mask: Tensor,
) -> tuple[Tensor, Tensor]:
    """Run the tokens that follow the prompts through the decoder, up to the last layer's MLP.

    Args:
        text: the decoder, in eval mode.
        prompts: from :func:`prompt_memory`.
        embeddings_NLD: input embeddings of the tokens that follow; they belong to no block, so their tangents begin at
            zero.
        positions_3NL: their M-RoPE positions.
        attention_mask: bool [N, L, prompt tokens + L], which tokens of the prompt and of the L a token sees.

    Returns:
        The hidden states that enter the last layer's MLP and its norm [N, L, D], and their tangents [N, K, L, D].
    """
    length, blocks = embeddings_NLD.shape[1], len(prompts[0].layout.starts)
    past_length = attention_mask.shape[2] - length
    bias = _minus_infinity(~attention_mask[:, None])
    attention_bias: AttentionBias = lambda first, end: bias[:, :, first:end, : past_length + end]  # noqa: E731
    with_tangents = TangentLayout(length, (0,) * blocks)
    # The tangents of these tokens are zero up to the first attention to the prompt.
    x, layout = embeddings_NLD, TangentLayout(length)
    with exact_products(x.device):
        cos_sin = text.rotary_emb(x, positions_3NL)
    token_rotation, full_rotation = _rotation(cos_sin, layout), _rotation(cos_sin, with_tangents)
    for layer, prompt in zip(_layers(text), prompts, strict=True):
        rotation = full_rotation if layout is with_tangents else token_rotation
        normed = _norm(layer.input_layernorm, x, layout)
        own = _key_values(layer.self_attn, normed, rotation, layout)
        query = _rotated(_heads(layer.self_attn, "q_proj", normed, layout), rotation)
        attended = _attention(layer.self_attn, query, layout, own, prompt, attention_bias)
        attended[:, : x.shape[1]] += x
        x, layout = attended, with_tangents
        if layer is not text.layers[-1]:
            x = _mlp(layer.mlp, _norm(layer.post_attention_layernorm, x, layout), layout).add_(x)
    return x[:, :length], x[:, length:].unflatten(1, (blocks, length))


def _layers(text: Qwen2_5_VLTextModel) -> list[Qwen2_5_VLDecoderLayer]:
    return cast(list[Qwen2_5_VLDecoderLayer], list(text.layers))


def _rotation(cos_sin: tuple[Tensor, Tensor], layout: TangentLayout) -> tuple[Tensor, Tensor]:
    """Expand the rotary cosine and sine of the tokens to tokens and tangents, [N, 1, M, d]."""
    columns = torch.cat([torch.arange(layout.length), layout.token]).to(cos_sin[0].device)
    cosine, sine = (each[:, None, columns] for each in cos_sin)
    return cosine, sine


def _heads(attention: Qwen2_5_VLAttention, name: str, normed: Tensor, layout: TangentLayout) -> Tensor:
    """Project to queries, keys or values of every head: [N, H, M, d]."""
    projected = _linear(getattr(attention, name), normed, layout)
    return projected.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)


def _rotated(values: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Apply rotary position embedding, as transformers' ``apply_rotary_pos_emb``; being linear, to tangents alike."""
    cosine, sine = rotation
    half = values.shape[-1] // 2
    out = torch.empty(values.shape, dtype=torch.promote_types(values.dtype, cosine.dtype), device=values.device)
    torch.mul(values, cosine, out=out)
    out[..., :half].addcmul_(values[..., half:], sine[..., :half], value=-1)
    out[..., half:].addcmul_(values[..., :half], sine[..., half:])
    return out


def _key_values(
    attention: Qwen2_5_VLAttention, normed: Tensor, rotation: tuple[Tensor, Tensor], layout: TangentLayout
) -> LayerKV:
    # In full precision even under autocast: all later tokens depend on them, and they are a small part of a layer's
    # work.
    with full_precision(normed.device):
        keys = _rotated(_heads(attention, "k_proj", normed, layout), rotation)
        return LayerKV(keys, _heads(attention, "v_proj", normed, layout).contiguous(), layout)


def _linear(layer: nn.Module, x: Tensor, layout: TangentLayout) -> Tensor:
    """Apply a linear layer; tangents pass without the bias."""
    if isinstance(layer, nn.Linear):
        out = functional.linear(x, in_precision_of(x, layer.weight))
        if layer.bias is not None:
            layout.tokens(out).add_(layer.bias)
        return out
    # An adapter around a linear layer is affine too: its value at zero is the bias.
    out = passed(layer, x)
    out[:, layout.length :] -= passed(layer, torch.zeros_like(x[:1, :1]))
    return out


def _norm(norm: Qwen2_5_VLRMSNorm, x: Tensor, layout: TangentLayout) -> Tensor:
    """Apply RMSNorm, and its derivative to the tangents."""
    out = torch.empty_like(x, dtype=torch.float32)
    values = layout.tokens(x).float()
    scale = (values.square().mean(-1, keepdim=True) + norm.variance_epsilon).rsqrt()
    unit, weighted = torch.mul(values, scale, out=layout.tokens(out)), scale * norm.weight
    for (start, tangents), (_, out_tangents) in zip(layout.tangents(x), layout.tangents(out), strict=True):
        unit_here = unit[:, None, start:]
        along = (unit_here * tangents).mean(-1, keepdim=True)
        torch.addcmul(tangents.float(), unit_here, along, value=-1, out=out_tangents).mul_(weighted[:, None, start:])
    unit.mul_(norm.weight)
    return out.to(x.dtype)


def _mlp(mlp: Qwen2MLP, x: Tensor, layout: TangentLayout) -> Tensor:
    """Apply the SwiGLU MLP, and its derivative to the tangents."""
    gates, ups = _linear(mlp.gate_proj, x, layout), _linear(mlp.up_proj, x, layout)
    gate, up = layout.tokens(gates), layout.tokens(ups)
    sigmoid = gate.sigmoid()
    silu = gate * sigmoid
    # SiLU's derivative times up.
    slope = torch.sub(gate, silu).add_(1).mul_(sigmoid).mul_(up)
    for (start, d_gate), (_, d_up) in zip(layout.tangents(gates), layout.tangents(ups), strict=True):
        d_gate.mul_(slope[:, None, start:]).addcmul_(silu[:, None, start:], d_up)
    torch.mul(silu, up, out=gate)
    return _linear(mlp.down_proj, gates, layout)


def _attention(
    attention: Qwen2_5_VLAttention,
    query: Tensor,
    layout: TangentLayout,
    own: LayerKV,
    past: LayerKV | None,
    attention_bias: AttentionBias,
) -> Tensor:
    """Apply self-attention, and its derivative to the tangents.

    With scores s, weights p = softmax(s) and output o = p v, a tangent is o' = (p s') v - sum(p s') o + p v'.

    Args:
        attention: the layer's.
        query: [N, H, M, d], rotated; scaled in place.
        layout: the query's columns; without tangents where they are still zero.
        own: keys and values of the same tokens.
        past: keys and values of the tokens in front of them, whose blocks then give every token of the result a
            tangent.
        attention_bias: masks the keys that a query may not see.

    Returns:
        What the layer adds to the residual stream, [N, M, D].
    """
    # The query is scaled, as it is smaller than the scores.
    query = query.mul_(attention.scaling)
    own = own.repeated(attention.num_key_value_groups)
    keys, values = own.tokens()
    past_length, past_blocks = 0, []
    if past is not None:
        past = past.repeated(attention.num_key_value_groups)
        past_length, past_blocks = past.layout.length, list(past.blocks())
        keys, values = (torch.cat(parts, 2) for parts in zip(past.tokens(), (keys, values), strict=True))
    out_layout = layout if past is None else TangentLayout(layout.length, (0,) * len(past_blocks))
    q, own_tangents = (
        layout.tokens(query, 2),
        [list(layout.tangents(each, 2)) for each in (query, own.keys, own.values)],
    )
    out = q.new_empty(*q.shape[:2], out_layout.length + len(out_layout.token), q.shape[3])
    max_scores = _SCORES_TOGETHER.get(q.device.type, _SCORES_TOGETHER["cuda"])
    queries_per_pass = max(1, max_scores // (q.shape[0] * q.shape[1] * keys.shape[2]))
    for first in range(0, layout.length, queries_per_pass):
        end = min(first + queries_per_pass, layout.length)
        visible_keys, visible_values = keys[:, :, : past_length + end], values[:, :, : past_length + end]
        scores = q[:, :, first:end] @ visible_keys.transpose(2, 3)
        p = scores.add_(attention_bias(first, end)).softmax(-1).to(q.dtype)
        out[:, :, first:end] = p @ visible_values
        for run, (start, out_tangents) in enumerate(out_layout.tangents(out, 2)):
            begin = max(first, start)
            if begin >= end:
                continue
            here, q_here, p_here = slice(begin - start, end - start), q[:, :, begin:end], p[:, :, begin - first :]
            out_here = out[:, :, begin:end]
            if layout.starts:
                d_query, d_keys, d_values = (tangents[run][1][:, :, :, : end - start] for tangents in own_tangents)
                # The tangents' scores; rebinding the name frees the memory of the tokens' scores.
                scores = _matmul_blocks(d_query[:, :, :, here], visible_keys.transpose(2, 3))
                scores[..., past_length + start :] += q_here[:, :, None] @ d_keys.transpose(3, 4)
                weighted = scores.mul_(p_here[:, :, None])
                d_out = _matmul_blocks(weighted, visible_values)
                d_out.addcmul_(out_here[:, :, None], weighted.sum(-1, keepdim=True), value=-1)
                d_out += p_here[:, :, None, :, past_length + start :] @ d_values
            else:
                d_out = torch.zeros_like(out_tangents[:, :, :, here])
            # The same for the past's tangents, one block at a time, as blocks differ in their number of tokens.
            for k, (offset, d_keys, d_values) in enumerate(past_blocks):
                p_past = p_here[..., offset:past_length]
                weighted = (q_here @ d_keys.transpose(2, 3)).mul_(p_past)
                d_out[:, :, k] += (weighted @ values[:, :, offset:past_length]).add_(p_past @ d_values)
                d_out[:, :, k].addcmul_(out_here, weighted.sum(-1, keepdim=True), value=-1)
            out_tangents[:, :, :, here] = d_out
    return _linear(attention.o_proj, out.transpose(1, 2).flatten(2), out_layout)


def _matmul_blocks(blocks: Tensor, matrix: Tensor) -> Tensor:
    """Multiply the [b, ·] of each block in [N, H, k, b, ·] by one matrix [N, H, ·, ·]."""
    return (blocks.flatten(2, 3) @ matrix).unflatten(2, blocks.shape[2:4])


def _attention_bias(mask_NL: Tensor, first: int, end: int) -> Tensor:
    """Return the causal bias of a prompt's queries, [N, 1, queries, keys]; padding sees itself alone."""
    columns = torch.arange(end, device=mask_NL.device)
    later = columns > columns[first:, None]
    other = columns != columns[first:, None]
    return _minus_infinity((later | (~mask_NL[:, None, :end].bool() & other))[:, None])


def _minus_infinity(where: Tensor) -> Tensor:
    return torch.zeros(where.shape, device=where.device).masked_fill_(where, -torch.inf)
