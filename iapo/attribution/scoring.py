"""Attribution of any number of recorded tool turns, outside training: by the teacher cache, the audit and the tests.

Turns are collated into batches for :func:`iapo.attribution.api.attribute`, and the results are put together again.

Shapes: B turns, K blocks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedTokenizerBase

from iapo.attribution.api import attribute
from iapo.attribution.batch import calls_batch
from iapo.config.schema import AttributionConfig
from iapo.models.interfaces import QwenVL
from iapo.rollout.turns import ToolTurn
from iapo.types import BlockAttribution


def score_turns(
    model: QwenVL,
    tokenizer: PreTrainedTokenizerBase,
    turns: Sequence[ToolTurn],
    config: AttributionConfig,
    *,
    batch_size: int = 128,
) -> BlockAttribution:
    """Attribute tool turns, batch by batch.

    Args:
        model: teacher or student, in eval mode.
        tokenizer: the model's.
        turns: [B] turns that call tools; at least one.
        config: how they are attributed.
        batch_size: turns collated into one batch; bounds memory, never changes the result.

    Returns:
        The attribution of all turns, in order. K is that of the prompt with the most blocks; the sums of a prompt with
        fewer end in zeros.
    """
    parts = [
        attribute(
            model, calls_batch(turns[start : start + batch_size], tokenizer, model.device, config.target), config=config
        )
        for start in range(0, len(turns), batch_size)
    ]
    blocks = max(part.signed.shape[1] for part in parts)
    pad = torch.nn.functional.pad
    return BlockAttribution(
        signed=torch.cat([pad(part.signed, (0, blocks - part.signed.shape[1])) for part in parts]),
        l1=torch.cat([pad(part.l1, (0, blocks - part.l1.shape[1])) for part in parts]),
        convergence_delta=torch.cat([part.convergence_delta for part in parts]),
        delta_f=torch.cat([part.delta_f for part in parts]),
        log_p=torch.cat([part.log_p for part in parts]),
    )
