"""Checks (b) and (i): the time and memory of attribution against the estimate, and the hours of the teacher's cache."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_check.clock import peak_memory, seconds, shares_of_time
from benchmarks.gpu_check.decoding import decoding_times
from benchmarks.gpu_check.finding import Bound, Finding
from benchmarks.gpu_check.paper import TYPICAL_TURN, paper_attribution, paper_config
from benchmarks.gpu_check.questions import called_turns, encoded, long_question
from benchmarks.gpu_check.scale import Scale
from benchmarks.gpu_check.shapes import random_policy
from iapo.attribution.api import attribute
from iapo.attribution.batch import calls_batch
from iapo.jobs.lengths import GB, Lengths
from iapo.jobs.memory import Arithmetic, attribution_bytes
from iapo.jobs.stages import candidates, questions
from iapo.jobs.times import attribution_flops, sustained
from iapo.rollout.turns import ToolTurn
from iapo.types import BlockAttribution

TRUSTED = 1.15
"""The estimate's memory is trusted to 15 %, as docs/estimate.md says."""


def lengths_of(turns: list[ToolTurn]) -> Lengths:
    """Return what the estimate knows of some calls on one prompt: their longest turn and the figure's tokens."""
    image, turn = sum(turns[0].prompt.fields["mm_token_type_ids"][0]), max(len(turn.ids) for turn in turns)
    return Lengths(image, turn, 2 * turn + image)


def attribution(scale: Scale, device: torch.device, work: Path) -> Finding:
    """Attribute the calls of a prompt with the student, its weights in bfloat16 and in float32 under autocast."""
    dtypes: dict[Arithmetic, torch.dtype] = {"bfloat16": torch.bfloat16, "mixed": torch.float32}
    figures: dict[str, dict[str, Any]] = {
        name: _attribution(scale, device, name, dtype) for name, dtype in dtypes.items()
    }
    peaks = {name: each["peak_gb"] / each["peak_gb_estimated"] for name, each in figures.items() if each["peak_gb"]}
    bounds = {f"{name}: peak over the estimate": Bound(each, TRUSTED) for name, each in peaks.items()}
    return Finding(figures, bounds)


def _attribution(scale: Scale, device: torch.device, arithmetic: Arithmetic, dtype: torch.dtype) -> dict[str, Any]:
    settings = paper_attribution(scale.points)
    model, processor = random_policy(scale.student, scale, device, dtype)
    turns = called_turns(processor, long_question(0, scale, processor), scale.calls)
    batch = calls_batch(turns, processor.tokenizer, device)

    def run() -> BlockAttribution:
        with torch.autocast(device.type, torch.bfloat16, enabled=arithmetic == "mixed"):
            return attribute(model, batch, config=settings)

    taken = seconds(run, device, scale.repeats)
    with peak_memory(device) as peak:
        run()
    lengths = lengths_of(turns)
    flops = attribution_flops(scale.student, settings, len(turns), lengths, prompts=1)
    rates_of = sustained(scale.student, paper_config().hardware)
    return {
        "prompt_tokens": len(turns[0].prompt.input_ids),
        "calls": len(turns),
        "points": scale.points,
        "seconds": taken,
        "seconds_estimated": [flops / (rates.tflops * 1e12) for rates in reversed(rates_of)],
        "sustained_tflops": flops / taken / 1e12,
        "peak_gb": peak.gigabytes,
        "peak_gb_estimated": attribution_bytes(scale.student, settings, lengths, arithmetic) / GB,
        "shares": shares_of_time(run, device),
    }


def teacher_cache(scale: Scale, device: torch.device, work: Path) -> Finding:
    """Attribute a prompt's candidate calls with the teacher and let it write turns: the hours of the paper's cache."""
    config = paper_config()
    settings = paper_attribution(config.teacher.n_steps if scale.name == "real" else scale.points)
    model, processor = random_policy(scale.teacher, scale, device, torch.bfloat16)
    example = long_question(0, scale, processor)
    count = candidates(config) if scale.name == "real" else scale.calls
    turns = called_turns(processor, example, count)
    batch = calls_batch(turns, processor.tokenizer, device)
    with peak_memory(device) as peak:
        taken = seconds(lambda: attribute(model, batch, config=settings), device, 1)
    decoding = decoding_times(model, processor, [encoded(processor, example)] * scale.questions, scale, device)
    prompts = sum(min(config.train.prompts_per_set, each) for each in questions(config)[0])
    sampled = math.ceil((1 + config.teacher.sampled_calls) * prompts / scale.questions)
    batch_seconds = decoding.prefill + 2 * TYPICAL_TURN * decoding.token
    return Finding(
        {
            "candidates": count,
            "points": settings.n_steps,
            "seconds_a_prompt": taken,
            "peak_gb": peak.gigabytes,
            "decoding": asdict(decoding),
            "prompts": prompts,
            "hours_attributing": prompts * taken / 3600,
            "hours_sampling": sampled * batch_seconds / 3600,
            "hours": (prompts * taken + sampled * batch_seconds) / 3600,
        }
    )
