"""Check (c): real trainer steps with adapters, two figures a rollout, with and without attribution."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean, median

import torch

from benchmarks.gpu_check.attribution import lengths_of
from benchmarks.gpu_check.finding import Bound, Finding
from benchmarks.gpu_check.questions import called_turns, long_question
from benchmarks.gpu_check.scale import Scale
from benchmarks.gpu_check.shapes import prepared_processor, start_directory
from benchmarks.gpu_check.training_job import TrainingJob, run, run_config
from iapo.config.schema import load_config
from iapo.jobs.lengths import Lengths
from iapo.jobs.memory import training_memory
from iapo.jobs.model_sizes import ModelSize

FIRST_KL = 1e-3
"""Largest |KL| at the first step, where policy and reference are one."""

_STEPS = 8
"""Two to warm up, then three of each kind."""


def steps(scale: Scale, device: torch.device, work: Path) -> Finding:
    """Train adapters for some steps, every other one with attribution, and say where their time goes."""
    folder = work / "steps"
    shutil.rmtree(folder, ignore_errors=True)
    config = run_config(
        scale,
        device.type,
        train={"steps": _STEPS, "kl_beta": 0.01},
        hardware={"lora_rank": 16, "checkpoint_activations": True, "rollouts_per_forward": 2},
    )
    job = TrainingJob(
        scale=scale.name,
        start=str(start_directory(work, scale.student, scale, device.type)),
        folder=str(folder),
        config=config,
        attributes=True,
        generates=True,
        stopped_after=_STEPS,
    )
    rows = run(job)
    shutil.rmtree(folder)
    timed = [row for row in rows if row["step"] > 2]
    # TRL's logs count steps from 1, and every step of an even number behind the trainer attributes.
    attributed = [row for row in timed if row["step"] % 2 == 1]
    plain = [row for row in timed if row["step"] % 2 == 0]
    kl = abs(rows[0]["kl"])
    grpo, iapo = _median(plain, "seconds/step"), _median(attributed, "seconds/step")
    update = grpo - _median(plain, "seconds/generation") - _median(plain, "seconds/rewards")
    rollouts = scale.groups * scale.group_size
    # Turns grow evenly from a part of the longest to all of it.
    mean_turn = round(scale.turn_tokens * (scale.group_size + 1) / (2 * scale.group_size))
    lengths, longest = rollout_lengths(scale, mean_turn), rollout_lengths(scale, scale.turn_tokens)
    flops = adapter_flops(scale.student, rollouts, lengths)
    settings = load_config(config)
    return Finding(
        {
            "rollouts": rollouts,
            "lengths": asdict(lengths),
            "grpo_step_seconds": grpo,
            "iapo_step_seconds": iapo,
            "iapo_over_grpo": iapo / grpo,
            "seconds": {
                "attribution": _median(attributed, "seconds/attribution"),
                "generation": _median(timed, "seconds/generation"),
                "rewards": _median(timed, "seconds/rewards"),
                "loss": _median(timed, "seconds/loss"),
                "update": update,
            },
            "generated_tokens_a_turn": scale.generated,
            "calls": mean(row["tools/call_rate"] for row in timed),
            "executed": mean(row["tools/success_rate"] for row in timed),
            "distinct_calls": _median(attributed, "attribution/distinct_calls"),
            "padding": mean(row["passes/padding"] for row in timed),
            "kl_of_the_first_step": kl,
            "sustained_tflops": flops / update / 1e12,
            "peak_gb": rows[-1].get("memory/peak_gb"),
            "peak_gb_estimated": training_memory(
                scale.student, settings.hardware, settings.train, longest, settings.attribution
            ),
        },
        {
            "|kl| of the first step": Bound(kl, FIRST_KL),
            "rollouts without an executed call": Bound(1 - min(row["tools/success_rate"] for row in rows), 0.0),
        },
    )


def adapter_flops(size: ModelSize, rollouts: int, lengths: Lengths) -> float:
    """Return the arithmetic of an update of adapters with checkpointed activations and a KL.

    Four passes of the language model, each 2 × parameters × tokens: forward for the reference, forward, forward once
    more for what was not kept, and backward to the activations alone, since frozen weights have no gradient. The frozen
    vision tower runs forward for the policy and for the reference.
    """
    return 2 * rollouts * (4 * size.language * lengths.sequence + 2 * size.vision * lengths.patches)


def rollout_lengths(scale: Scale, turn: int) -> Lengths:
    """Return the lengths of a scripted rollout, as the estimate counts them.

    Args:
        scale: size of the figure.
        turn: tokens of each of the two turns.
    """
    processor = prepared_processor(scale)
    image = lengths_of(called_turns(processor, long_question(0, scale, processor), 1)).image
    return Lengths(image, turn, 2 * turn + image)


def _median(rows: Sequence[dict[str, float]], name: str) -> float:
    return median(row[name] for row in rows)
