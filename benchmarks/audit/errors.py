"""Numerical error of the attribution: from too few integration steps, and from reduced precision.

Shapes: D distinct turns, K blocks.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from iapo.alignment.divergence import total_variation
from iapo.attribution.scoring import score_turns
from iapo.config.schema import AttributionConfig
from iapo.models.interfaces import Policy
from iapo.teacher.online_scoring import LiveSums
from iapo.types import BlockAttribution


def variation_from_converged(
    policy: Policy, scored: LiveSums, config: AttributionConfig, points: int
) -> NDArray[np.float64]:
    """Return the total variation between block distributions at the configured and at many integration steps.

    Only the first call of each prompt is measured.

    Args:
        policy: student or teacher.
        scored: its attribution under ``config``.
        config: the attribution settings of training.
        points: steps of the converged reference, by the midpoint rule.

    Returns:
        [prompts] distances in [0, 1].
    """
    model, processor = policy
    first = {id(turn.prompt): i for i, turn in reversed(list(enumerate(scored.turns)))}
    chosen = sorted(first.values())
    exact = replace(config, n_steps=points, quadrature="midpoint", tolerance=1e9)
    reference = score_turns(model, processor.tokenizer, [scored.turns[i] for i in chosen], exact)
    return np.asarray(total_variation(scored.result.signed[chosen], reference.signed).cpu().numpy())


def autocast_variation(policy: Policy, scored: LiveSums, config: AttributionConfig) -> NDArray[np.float64]:
    """Return the total variation between block distributions under bfloat16 autocast and in fp32: [D] in [0, 1]."""
    model, processor = policy
    with torch.autocast(model.device.type, dtype=torch.bfloat16):
        half = score_turns(model, processor.tokenizer, scored.turns, config)
    return np.asarray(total_variation(half.signed, scored.result.signed).cpu().numpy())


def convergence_deltas(result: BlockAttribution) -> tuple[float, float]:
    """Return the median and the 95th percentile of the completeness errors."""
    values = torch.as_tensor(result.convergence_delta)
    return values.quantile(0.5).item(), values.quantile(0.95).item()
