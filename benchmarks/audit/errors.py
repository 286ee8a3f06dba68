"""What an attribution at the set points errs by."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from iapo.alignment import total_variation
from iapo.config import AttributionConfig
from iapo.live import LiveSums
from iapo.teacher import score_turns

Policy = tuple[Any, Any]
"""A model in eval mode and its processor."""


def variation_from_converged(
    policy: Policy, scored: LiveSums, config: AttributionConfig, points: int
) -> NDArray[np.float64]:
    """Distance of each prompt's first call's block distribution from the converged one.

    Args:
        policy: student or teacher.
        scored: its attribution under ``config``.
        config: the settings that training uses.
        points: midpoints of the reference.

    Returns:
        [prompts] in [0, 1].
    """
    model, processor = policy
    first = {id(turn.prompt): i for i, turn in reversed(list(enumerate(scored.turns)))}
    chosen = sorted(first.values())
    exact = replace(config, points=points, quadrature="midpoint", tolerance=1e9)
    reference = score_turns(model, processor.tokenizer, [scored.turns[i] for i in chosen], exact)
    return np.asarray(total_variation(scored.result.signed[chosen], reference.signed).cpu().numpy())


def autocast_variation(policy: Policy, scored: LiveSums, config: AttributionConfig) -> NDArray[np.float64]:
    """Distance of each turn's block distribution under bfloat16 autocast from the one in fp32: [D] in [0, 1]."""
    model, processor = policy
    with torch.autocast(model.device.type, dtype=torch.bfloat16):
        half = score_turns(model, processor.tokenizer, scored.turns, config)
    return np.asarray(total_variation(half.signed, scored.result.signed).cpu().numpy())


def residuals(result: Any) -> tuple[float, float]:
    """Median and 95th percentile of the completeness errors."""
    values = torch.as_tensor(result.residual)
    return values.quantile(0.5).item(), values.quantile(0.95).item()
