"""Exact Shapley values of the four prompt blocks: an alternative to integrated gradients.

With four players there are only 16 coalitions, so each is evaluated by one forward pass and no gradient is needed. A
block outside the coalition is replaced by the baseline input.
"""

from __future__ import annotations

import math
from itertools import combinations

import torch
from torch import Tensor

from iapo.attribution.path import EmbeddingPath
from iapo.attribution.quadrature import completeness_error
from iapo.attribution.rows import AllReduceMax, SeparateRows
from iapo.config.schema import AttributionConfig
from iapo.models.interfaces import QwenVL
from iapo.types import BLOCKS, BlockAttribution


@torch.no_grad()
def shapley_values(
    model: QwenVL, path: EmbeddingPath, config: AttributionConfig, all_reduce_max: AllReduceMax | None
) -> BlockAttribution:
    """Compute exact Shapley values of the blocks P, R, I, T with the call's log-probability as the game's value.

    Args:
        model: student or teacher, in eval mode.
        path: of all rows.
        config: ``tokens_per_forward``.
        all_reduce_max: as for :func:`iapo.attribution.api.attribute`.

    Returns:
        ``signed`` [B, 4] in nats and its magnitude as ``l1``. The convergence delta is rounding alone.
    """
    rows = SeparateRows(model, path, config, all_reduce_max=all_reduce_max)
    players = range(len(BLOCKS))
    value: dict[frozenset[int], Tensor] = {}
    for size in range(len(players) + 1):
        for present in map(frozenset, combinations(players, size)):
            absent = torch.tensor([k not in present for k in players] + [False], device=path.ids_BL.device)
            # Block id -1 (no block) indexes the last entry, False.
            is_absent = absent[path.blocks_BL][..., None]
            embeddings = path.inputs_BLD - path.difference_BLD * is_absent
            value[present] = rows.log_probability_at(embeddings)
    shares = []
    for k in players:
        gains = [
            (value[others | {k}] - value[others]) / (len(players) * math.comb(len(players) - 1, len(others)))
            for others in value
            if k not in others
        ]
        shares.append(torch.stack(gains).sum(0))
    signed = torch.stack(shares, -1)
    delta = value[frozenset(players)] - value[frozenset()]
    return BlockAttribution(
        signed=signed,
        l1=signed.abs(),
        convergence_delta=completeness_error(signed, delta),
        delta_f=delta,
        log_p=value[frozenset(players)],
    )
