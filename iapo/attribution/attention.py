"""The share of attention that each prompt block receives: a control for attribution.

Read off the attention weights of one forward pass. It costs far less than integrated gradients but is no attribution:
attention says where a position looks, not how much the log-probability of the call depends on it.

Shapes: B rows, L tokens, K blocks.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from iapo.attribution.path import EmbeddingPath
from iapo.attribution.rows import AllReduceMax, SeparateRows, in_step
from iapo.config.schema import AttributionConfig
from iapo.models.interfaces import QwenVL
from iapo.types import BlockAttribution


@torch.no_grad()
def attention_shares(
    model: QwenVL,
    path: EmbeddingPath,
    config: AttributionConfig,
    blocks: int,
    all_reduce_max: AllReduceMax | None = None,
) -> BlockAttribution:
    """Sum, per block, the attention paid by the positions that predict the target, averaged over layers and heads.

    Args:
        model: student or teacher, in eval mode; attention runs as "eager" here, since fused kernels return no weights.
        path: of all rows; only its inputs are read.
        config: ``tokens_per_forward``.
        blocks: K.
        all_reduce_max: as for :func:`iapo.attribution.api.attribute`.

    Returns:
        ``signed`` and ``l1`` [B, K]: attention mass, not nats. The other fields are zero, as completeness has no
        meaning here.
    """
    signed = torch.zeros(len(path), blocks, dtype=torch.float64, device=path.ids_BL.device)
    implementation = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        separate = SeparateRows(model, path, config, all_reduce_max=all_reduce_max)
        chunks = separate.chunks(torch.arange(len(path), device=signed.device))
        for rows, counts in in_step(chunks, separate.all_reduce_max):
            chunk = path.rows(rows)
            output = model(
                inputs_embeds=chunk.inputs_BLD.to(model.dtype),
                position_ids=chunk.positions_3BL,
                attention_mask=chunk.attention_BL,
                use_cache=False,
                output_attentions=True,
            )
            if not counts:
                continue
            attention_BLL = torch.stack(output.attentions).double().mean((0, 2))
            # A token is predicted at the position before it.
            predicts_target_BL = functional.pad(chunk.target_BL[:, 1:], (0, 1)).double()
            membership = functional.one_hot(chunk.blocks_BL + 1, blocks + 1)[..., 1:].double()
            signed[rows] = torch.einsum("bq,bql,blk->bk", predicts_target_BL, attention_BLL, membership)
    finally:
        model.set_attn_implementation(implementation)
    zeros = torch.zeros(len(path), dtype=torch.float64, device=signed.device)
    return BlockAttribution(signed=signed, l1=signed, convergence_delta=zeros, delta_f=zeros, log_p=zeros)
