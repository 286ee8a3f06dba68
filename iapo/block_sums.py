"""The block sums that a penalty compares: aggregated, and where asked for, contrasted with other calls.

The same for the trainer, which reads the teacher from its cache, and for the audit, which runs it live.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from iapo.alignment import Aggregation, block_magnitudes
from iapo.config import AlignmentConfig
from iapo.teacher_cache import CacheHit
from iapo.turns import ToolTurn
from iapo.types import BlockAttribution

Sums = list[float]
"""Per block of the turn's prompt, nats (per token where length-normalised)."""


def attributed_sums(turns: Sequence[ToolTurn], result: BlockAttribution, config: AlignmentConfig) -> list[Sums]:
    """Per turn the sums of its attribution.

    Args:
        turns: [B] distinct turns.
        result: their attribution; rows may end in blocks that a turn's prompt does not have.
        config: aggregation, and whether a call is contrasted with the other ``turns`` of its prompt.
    """
    sums = [aggregated(turn, result.signed[i], result.l1[i], config.aggregation) for i, turn in enumerate(turns)]
    if not config.contrastive:
        return [each.tolist() for each in sums]
    prompts: dict[int, list[int]] = defaultdict(list)
    for i, turn in enumerate(turns):
        prompts[id(turn.prompt)].append(i)
    contrasted = []
    for i, turn in enumerate(turns):
        others = [sums[j] for j in prompts[id(turn.prompt)] if j != i]
        contrasted.append((sums[i] - torch.stack(others).mean(0)).tolist() if others else sums[i].tolist())
    return contrasted


def cached_sums(turn: ToolTurn, hit: CacheHit, config: AlignmentConfig) -> Sums:
    """The same from a cached row; contrasted with the prompt's other rows."""
    sums = aggregated(turn, hit.signed, hit.l1, config.aggregation)
    if config.contrastive:
        sums = sums - aggregated(turn, hit.others, hit.others, config.aggregation)
    return [*sums.tolist()]


def aggregated(turn: ToolTurn, signed: Any, l1: Any, aggregation: Aggregation) -> Tensor:
    """What stands for each block of the turn's prompt: [K], float64.

    Args:
        turn: gives the blocks and their lengths.
        signed: [≥ K] signed sums, nats.
        l1: [≥ K] sums of magnitudes, nats.
        aggregation: which of them counts.
    """
    cut = slice(turn.prompt.blocks)
    signed, l1 = (torch.as_tensor(sums, dtype=torch.float64)[cut] for sums in (signed, l1))
    return block_magnitudes(signed, l1, turn.prompt.block_lengths.to(signed.device), aggregation)
