"""Ground-truth test of the attribution: models whose calls depend, by construction, on a single prompt block.

A planted model has one layer whose attention is steered to the tokens of one block: their embeddings carry a flag that
the keys read, and the layer's output consists of the attended values alone. Prompts are random tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from iapo.attribution.api import attribute
from iapo.config.mini_world import ModelConfig
from iapo.config.schema import AttributionConfig
from iapo.models.interfaces import QwenVL
from iapo.models.tiny import build_model
from iapo.types import BLOCKS

_FLAGS = slice(60, 64)
"""Embedding channels that flag a token's block."""
_FLAG = 3.0
"""Value of a set flag."""
_SCORE = 30.0
"""Attention score of a flagged token, which outweighs the others by about e³⁰."""
_CALL_TOKENS = 6
_LENGTHS = {"P": 12, "R": 6, "I": 4, "T": 20}
_WORDS = 30
"""Token ids per block; blocks share none, so that a token id determines its block."""
_GRID = (1, 4, 4)
_PATCH = 3 * 2 * 14 * 14


def planted_share(cases: int, *, seed: int = 0, config: AttributionConfig | None = None) -> float:
    """Return the share of prompts whose largest block attribution is that of the planted block, in [0, 1].

    Args:
        cases: number of prompts per planted block.
        seed: seed of weights and prompts.
        config: attribution settings; the defaults if None.
    """
    found = 0
    for planted in range(len(BLOCKS)):
        model = planted_model(planted, seed=seed)
        batch = random_prompts(model, cases, seed=seed + planted)
        signed = attribute(model, batch, config=config or AttributionConfig()).signed
        found += int((signed.abs().argmax(1) == planted).sum())
    return found / (cases * len(BLOCKS))


@torch.no_grad()
def planted_model(block: int, *, seed: int) -> QwenVL:
    """Return a model in eval mode whose calls depend on one block only.

    Args:
        block: index into ``BLOCKS``.
        seed: seed of the weights that are random.
    """
    built, _ = build_model(ModelConfig(num_layers=1), seed=seed)
    model: Any = built
    draw = torch.Generator().manual_seed(seed)

    def normal(like: Tensor, std: float) -> Tensor:
        return torch.randn(like.shape, generator=draw) * std

    table = model.get_input_embeddings().weight
    table.copy_(normal(table, 1.0))
    table[:, _FLAGS] = 0
    for k, name in enumerate(BLOCKS):
        if name != "I":
            table[_words(k), _FLAGS.start + k] = _FLAG
    last = model.model.visual.merger.mlp[-1]
    last.weight.copy_(normal(last.weight, 0.7))
    last.weight[_FLAGS] = 0
    last.bias.zero_()
    last.bias[_FLAGS.start + BLOCKS.index("I")] = _FLAG

    layer = model.model.language_model.layers[0]
    attention, head = layer.self_attn, layer.self_attn.head_dim
    attention.k_proj.weight.copy_(normal(attention.k_proj.weight, 0.1))
    attention.k_proj.weight[:, _FLAGS] = 0
    attention.q_proj.weight.zero_()
    attention.q_proj.bias.copy_(normal(attention.q_proj.bias, 0.5))
    for projection in (attention.k_proj, attention.v_proj):
        projection.bias.zero_()
    # Through the slowest rotary channel, so that the distance between call and token hardly matters.
    slowest = torch.arange(attention.q_proj.out_features).view(-1, head)[:, head // 2 - 1]
    attention.q_proj.bias[slowest] = _SCORE * head**0.5 / _FLAG
    attention.k_proj.weight[slowest] = 0
    attention.k_proj.weight[slowest, _FLAGS.start + block] = 1.0
    attention.v_proj.weight.copy_(normal(attention.v_proj.weight, 0.125))
    attention.o_proj.weight.copy_(normal(attention.o_proj.weight, 0.25))
    layer.mlp.down_proj.weight.zero_()
    return model.eval()


def random_prompts(model: QwenVL, count: int, *, seed: int) -> dict[str, Tensor]:
    """Return a batch for :func:`iapo.attribution.api.attribute`: the four blocks in order, then a call, all random."""
    draw = torch.Generator().manual_seed(seed)
    ids, blocks = [], []
    for k, name in enumerate(BLOCKS):
        length = _LENGTHS[name]
        chosen = torch.randint(0, _WORDS, (count, length), generator=draw) + k * _WORDS
        ids.append(torch.full_like(chosen, model.config.image_token_id) if name == "I" else chosen)
        blocks.append(torch.full((count, length), k))
    call = torch.randint(0, _WORDS, (count, _CALL_TOKENS), generator=draw) + len(BLOCKS) * _WORDS
    input_ids = torch.cat([*ids, call], 1)
    block_ids = torch.cat([*blocks, torch.full_like(call, -1)], 1)
    target = torch.zeros_like(input_ids, dtype=torch.bool)
    # The first call token is excluded: it is predicted at a prompt token, which would attend to itself.
    target[:, -_CALL_TOKENS + 1 :] = True
    return {
        "input_ids": input_ids,
        "attention_mask": torch.ones_like(input_ids),
        "mm_token_type_ids": (input_ids == model.config.image_token_id).long(),
        "target_mask": target,
        "block_ids": block_ids,
        "pixel_values": torch.randn(count * _GRID[1] * _GRID[2], _PATCH, generator=draw),
        "image_grid_thw": torch.tensor([_GRID] * count),
    }


def _words(block: int) -> slice:
    """Token ids of a block."""
    return slice(block * _WORDS, (block + 1) * _WORDS)
