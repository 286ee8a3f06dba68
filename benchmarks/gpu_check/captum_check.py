"""Check (f): captum's integrated gradients at our error against ours, at the length of the paper's prompts."""

from __future__ import annotations

from pathlib import Path

import torch

from benchmarks.gpu_check.finding import Finding
from benchmarks.gpu_check.paper import paper_attribution
from benchmarks.gpu_check.questions import called_turns, long_question
from benchmarks.gpu_check.scale import Scale
from benchmarks.gpu_check.shapes import random_policy
from benchmarks.perf.attributions import against_captum

_CALLS = 4
"""Of one prompt: captum takes each by itself, so more would only take longer."""


def captum(scale: Scale, device: torch.device, work: Path) -> Finding:
    """Time both at equal error, weights in bfloat16; captum gets two path points a pass, which is what fits."""
    model, processor = random_policy(scale.student, scale, device, torch.bfloat16)
    turns = called_turns(processor, long_question(0, scale, processor), _CALLS)
    row = against_captum(
        model,
        processor.tokenizer,
        [turns],
        paper_attribution(scale.points),
        1,
        reference_points=8 * scale.points,
        most_captum_points=scale.captum_points,
        points_together=2,
    )
    return Finding({**row, "captum_reached_our_error": row["tv_captum"] <= row["tv_ours"]})  # type: ignore[operator]
