"""Checks (b) and (i): the time and memory of attribution against the estimate, and the hours of the teacher's cache."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path

import torch

from benchmarks.gpu_check.clock import peak_memory, seconds, shares_of_time
from benchmarks.gpu_check.decoding import decoding_times
from benchmarks.gpu_check.finding import Bound, Finding
from benchmarks.gpu_check.questions import called_turns, encoded, long_question
from benchmarks.gpu_check.scale import Scale
from benchmarks.gpu_check.shapes import random_policy
from iapo.attribution.api import attribute
from iapo.attribution.batch import calls_batch
from iapo.config.method import AttributionConfig
from iapo.config.schema import Config
from iapo.jobs.costs import GB, Lengths, attribution_bytes, attribution_flops
from iapo.jobs.estimate import candidates, questions, read_config
from iapo.rollout.turns import ToolTurn

PAPER = Path(__file__).resolve().parents[2] / "config" / "paper.yaml"
_TRUSTED = 1.15
"""The estimate's memory is trusted to 15 %, as docs/estimate.md says."""

_TYPICAL_TURN = 256
"""Tokens, as the estimate takes it; a batch ends with its longest, about twice as long."""


def settings_of(config: Config, points: int) -> AttributionConfig:
    """Return the paper's settings with some number of points and without further ones, which depend on the weights."""
    return replace(config.attribution, n_steps=points, tolerance=1e9)


def lengths_of(turns: list[ToolTurn]) -> Lengths:
    """Return what the estimate knows of some calls on one prompt: their longest turn and the figure's tokens."""
    image, turn = sum(turns[0].prompt.fields["mm_token_type_ids"][0]), max(len(turn.ids) for turn in turns)
    return Lengths(image, turn, 2 * turn + image)


def attribution(scale: Scale, device: torch.device, work: Path) -> Finding:
    """Attribute the calls of a prompt with the student, its weights in bfloat16 and in float32 under autocast."""
    config = read_config([PAPER])
    settings = settings_of(config, scale.points)
    figures: dict[str, object] = {}
    bounds = {}
    for name, dtype in (("bfloat16", torch.bfloat16), ("mixed", torch.float32)):
        model, processor = random_policy(scale.student, scale, device, dtype)
        turns = called_turns(processor, long_question(0, scale, processor), scale.calls)
        batch = calls_batch(turns, processor.tokenizer, device)

        def run() -> object:
            with torch.autocast(device.type, torch.bfloat16, enabled=name == "mixed"):  # noqa: B023
                return attribute(model, batch, config=settings)  # noqa: B023

        taken = seconds(run, device, scale.repeats)
        with peak_memory(device) as peak:
            run()
        lengths = lengths_of(turns)
        flops = attribution_flops(scale.student, settings, len(turns), lengths, prompts=1)
        expected_gb = attribution_bytes(scale.student, settings, lengths, name) / GB  # type: ignore[arg-type]
        figures[name] = {
            "prompt_tokens": len(turns[0].prompt.input_ids),
            "calls": len(turns),
            "points": scale.points,
            "seconds": taken,
            "seconds_estimated": flops / (config.hardware.tflops * 1e12),
            "sustained_tflops": flops / taken / 1e12,
            "peak_gb": peak.gigabytes,
            "peak_gb_estimated": expected_gb,
            "shares": shares_of_time(run, device),
        }
        if peak.gigabytes is not None:
            bounds[f"{name}: peak over the estimate"] = Bound(peak.gigabytes / expected_gb, _TRUSTED)
        del model
    return Finding(figures, bounds)


def teacher_cache(scale: Scale, device: torch.device, work: Path) -> Finding:
    """Attribute the candidate calls of a prompt with the teacher and let it write turns: the hours of the paper's cache."""
    config = read_config([PAPER])
    settings = settings_of(config, config.teacher.n_steps if scale.name == "real" else scale.points)
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
    batch_seconds = decoding.prefill + 2 * _TYPICAL_TURN * decoding.token
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
