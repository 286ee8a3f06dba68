"""Checks (d) and (e): block sums by precision and device, rotary angles under TF32, and the vision tower's windows."""

from __future__ import annotations

import copy
import io
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import torch
from PIL import Image
from torch import Tensor
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLVisionAttention

from benchmarks.gpu_check.clock import seconds
from benchmarks.gpu_check.finding import Bound, Finding
from benchmarks.gpu_check.paper import paper_attribution
from benchmarks.gpu_check.questions import called_turns, long_question, question
from benchmarks.gpu_check.scale import Scale
from benchmarks.gpu_check.shapes import random_policy
from iapo.alignment.divergence import total_variation
from iapo.attribution.api import attribute
from iapo.attribution.batch import calls_batch
from iapo.models import vision_windows
from iapo.models.interfaces import QwenVL
from iapo.models.precision import exact_products, full_precision

EXACT, ROUNDED = 1e-4, 0.01
"""Largest total variation of block sums between devices in float32, and their mean between precisions."""

_ANGLES = 1e-3
"""Largest error of a rotary cosine or sine; one position is .8 of them."""


def precisions(scale: Scale, device: torch.device, work: Path) -> Finding:
    """Compare block sums in float32 here and on the CPU, under autocast and with weights in bfloat16.

    The model is a shallow one with the student's widths: a CPU takes minutes for all of its layers.
    """
    layers = scale.shallow_layers
    shallow = replace(scale.student, layers=layers, vision_layers=layers)
    model, processor = random_policy(shallow, scale, "cpu", torch.float32)
    settings = paper_attribution(4)
    turns = called_turns(processor, long_question(0, scale, processor), 4)

    def sums(model: QwenVL, autocast: bool = False) -> Tensor:
        batch = calls_batch(turns, processor.tokenizer, model.device)
        with torch.autocast(model.device.type, torch.bfloat16, enabled=autocast):
            return attribute(model, batch, config=settings).signed.cpu()

    wanted = sums(model)
    here = copy.deepcopy(model).to(device)  # type: ignore[arg-type]
    found = {"float32": sums(here), "autocast": sums(here, autocast=True)}
    found["bfloat16"] = sums(here.to(torch.bfloat16))
    distances = {name: total_variation(each, wanted) for name, each in found.items()}
    angles = rotary_errors(model, device)
    return Finding(
        {
            "layers": layers,
            "prompt_tokens": len(turns[0].prompt.input_ids),
            "total_variation_mean": {name: each.mean().item() for name, each in distances.items()},
            "total_variation_most": {name: each.max().item() for name, each in distances.items()},
            "rotary_errors": angles,
        },
        {
            "float32: most": Bound(distances["float32"].max().item(), EXACT),
            "autocast: mean": Bound(distances["autocast"].mean().item(), ROUNDED),
            "bfloat16: mean": Bound(distances["bfloat16"].mean().item(), ROUNDED),
            **{f"rotary, {name}": Bound(error, _ANGLES) for name, error in angles.items() if name != "TF32 unguarded"},
        },
    )


def rotary_errors(model: QwenVL, device: torch.device) -> dict[str, float]:
    """Return the largest error of the rotary cosines and sines of positions 2,047 to 2,050.

    Args:
        model: gives the angles' rule.
        device: where they are computed, as the model's own pass does, as attribution does, and with TF32 unguarded.
    """
    rotary = copy.deepcopy(model.model.language_model.rotary_emb).to(device)
    positions = torch.arange(2047, 2051, device=device)[None, None].expand(3, 1, -1)
    exact = positions.double()[..., None] * rotary.inv_freq.double()
    embeddings = torch.zeros(1, 4, 1, device=device)

    def error() -> float:
        cos, sin = rotary(embeddings, positions)
        # All three axes have the same positions, so theirs may be compared without their sections.
        wanted = torch.cat([exact, exact], -1).reshape(3, 1, 4, -1)
        found = (cos.double() - wanted.cos()).abs().max(), (sin.double() - wanted.sin()).abs().max()
        return max(each.item() for each in found)

    errors = {"the model's own": error()}
    with torch.autocast(device.type, torch.bfloat16), full_precision(device):
        errors["TF32 unguarded"] = error()
        with exact_products(device):
            errors["attribution's"] = error()
    return errors


@torch.no_grad()
def vision(scale: Scale, device: torch.device, work: Path) -> Finding:
    """Compare the vision tower window by window, as transformers runs it, with windows of one size in one call."""
    model, processor = random_policy(scale.student, scale, device, torch.float32)
    images = [Image.open(io.BytesIO(question(i, scale).image_png)).convert("RGB") for i in range(2)]
    inputs = processor.image_processor(images=images, return_tensors="pt")
    pixels, grid = inputs["pixel_values"].to(device), inputs["image_grid_thw"].to(device)
    tower = model.model.visual

    def run() -> Tensor:
        output: Tensor = tower(pixels.to(tower.dtype), grid_thw=grid).last_hidden_state
        return output

    batched = run()
    with patch.object(Qwen2_5_VLVisionAttention, "forward", vision_windows._one_by_one):
        alone = run()
    error = ((batched - alone).abs().max() / alone.abs().max()).item()
    tower.to(torch.bfloat16)
    together = seconds(run, device, scale.repeats)
    with patch.object(Qwen2_5_VLVisionAttention, "forward", vision_windows._one_by_one):
        separate = seconds(run, device, scale.repeats)
    return Finding(
        {
            "patches": len(pixels),
            "images": len(images),
            "seconds_by_windows": separate,
            "seconds_batched": together,
            "times_faster": separate / together,
            "relative_error": error,
        },
        {"relative error": Bound(error, 1e-4)},
    )
