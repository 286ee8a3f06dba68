"""Block scores: the numbers per prompt block that a penalty compares, derived from a call's attribution.

A score is the block's signed sum, its sum of magnitudes or its signed sum per token; optionally the mean over other
calls on the same prompt is subtracted. The trainer, which reads the teacher from its cache, and the audit, which runs
it, share this code.

Shapes: B turns, K blocks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from iapo.alignment.divergence import Aggregation, block_magnitudes
from iapo.config.schema import AlignmentConfig
from iapo.rollout.turns import ToolTurn
from iapo.types import BlockAttribution

Sums = list[float]
"""Scores of one call, per block of its prompt: nats, or nats per token where length-normalised."""


def attributed_sums(turns: Sequence[ToolTurn], result: BlockAttribution, config: AlignmentConfig) -> list[Sums]:
    """Return the block scores of each turn.

    Args:
        turns: [B] distinct turns.
        result: their attribution; a row may end in blocks that the turn's prompt does not have.
        config: ``aggregation``; with ``contrastive``, the mean scores of the other turns on the same prompt are
            subtracted, where there are any that are finite.

    Returns:
        [B] lists, as long as each turn's prompt has blocks.
    """
    sums = [aggregated(turn, result.signed[i], result.l1[i], config.aggregation) for i, turn in enumerate(turns)]
    if not config.contrastive:
        return [each.tolist() for each in sums]
    turns_of_prompt: dict[int, list[int]] = defaultdict(list)
    for i, turn in enumerate(turns):
        turns_of_prompt[id(turn.prompt)].append(i)
    contrasted = []
    for i, turn in enumerate(turns):
        # One call whose scores are not finite must not spoil those of all others.
        others = [sums[j] for j in turns_of_prompt[id(turn.prompt)] if j != i and sums[j].isfinite().all()]
        contrasted.append((sums[i] - torch.stack(others).mean(0)).tolist() if others else sums[i].tolist())
    return contrasted


def aggregated(
    turn: ToolTurn, signed: Tensor | Sequence[float], l1: Tensor | Sequence[float], aggregation: Aggregation
) -> Tensor:
    """Reduce the attribution of one call to one score per block of its prompt.

    Args:
        turn: its prompt gives K and the blocks' lengths.
        signed: [≥ K] signed sums, nats.
        l1: [≥ K] sums of the tokens' magnitudes, nats.
        aggregation: which of them to use.

    Returns:
        [K] float64; see :func:`iapo.alignment.divergence.block_magnitudes`.
    """
    own_blocks = slice(turn.prompt.blocks)
    signed_K, l1_K = (torch.as_tensor(sums, dtype=torch.float64)[own_blocks] for sums in (signed, l1))
    return block_magnitudes(signed_K, l1_K, turn.prompt.block_lengths.to(signed_K.device), aggregation)
