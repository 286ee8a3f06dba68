"""Arithmetic and time of one job: the formulas of docs/estimate.md. No torch.

Symbols as there. Seconds unless a name says otherwise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from iapo.config.method import AttributionConfig, TrainConfig
from iapo.config.sources import HardwareConfig
from iapo.jobs.lengths import STREAMS, Distillation, Lengths, by_tangents, kv_bytes
from iapo.jobs.model_sizes import ModelSize

_TOKEN_SECONDS = 0.03
"""Least time of one decoded token in transformers: launching its kernels."""


_VLLM_TOGETHER = 64
"""Sequences that vLLM decodes together outside training, within the memory of a card of 80 GB."""


@dataclass(frozen=True)
class Rates:
    """What one GPU sustains."""

    tflops: float
    """Arithmetic in bfloat16, TFLOP/s."""
    bandwidth_tb: float
    """Memory bandwidth, TB/s."""


_HOPEFUL = Rates(tflops=400, bandwidth_tb=2)
"""40 % and 60 % of an H100's peaks: good kernels, long sequences, nothing waiting."""


_ANCHORS = ((5e9, Rates(tflops=100, bandwidth_tb=1)), (math.inf, Rates(tflops=170, bandwidth_tb=1)))
"""Largest number of parameters → with which these formulas give what EasyR1's baselines take on 8 H100 for 2,560
rollouts (Geometry3k, 675 to 750 tokens each): 120 s with the 3B model, 145 s with the 7B one, all that is no arithmetic
included. Its table's share of the peak, 8 and 16 %, is of the update alone and counts neither recomputed activations
nor the vision tower."""


def sustained(size: ModelSize, hardware: HardwareConfig) -> tuple[Rates, Rates]:
    """What a GPU does with a model, as public runs came to it and at best; what ``hardware`` sets is both.

    Args:
        size: of the model.
        hardware: ``tflops`` and ``bandwidth_tb``, where they were measured.
    """
    anchor = next(rates for parameters, rates in _ANCHORS if size.parameters <= parameters)
    careful, hopeful = (
        Rates(hardware.tflops or rates.tflops, hardware.bandwidth_tb or rates.bandwidth_tb)
        for rates in (anchor, _HOPEFUL)
    )
    return careful, hopeful


def update_flops(
    size: ModelSize, rollouts: float, lengths: Lengths, passes: int = 6, vision_passes: int | None = None
) -> float:
    """Of the policy's update, both figures through the vision tower.

    Args:
        size: of the policy.
        rollouts: of the update.
        lengths: of each.
        passes: × parameters × tokens: 2 forward, 4 backward.
        vision_passes: those of the vision tower, where they are others.
    """
    seen = passes if vision_passes is None else vision_passes
    return rollouts * (passes * size.language * lengths.sequence + seen * size.vision * lengths.patches)


def attribution_flops(
    size: ModelSize, config: AttributionConfig, calls: float, lengths: Lengths, prompts: float | None = None
) -> float:
    """Of the attribution of some calls. Backward passes go to the embeddings alone and so cost as much as forward ones;
    a tangent costs as much as a token.

    Args:
        size: of the attributing model.
        config: how.
        calls: distinct ones.
        lengths: of each, with its prompt.
        prompts: whose pass their calls share; None where every call brings its own.
    """
    own = calls * lengths.attributed
    if config.method != "integrated_gradients":
        return (2 * 16 if config.method == "shapley" else 2) * size.language * own
    if prompts is None:
        tokens = 2 * own
    elif by_tangents(config):
        tokens = prompts * lengths.moving + STREAMS * calls * lengths.turn
    else:
        tokens = prompts * lengths.prompt + calls * lengths.turn + own
    return 2 * config.n_steps * size.language * tokens


def distillation_flops(
    size: ModelSize, distillation: Distillation, turns: float, lengths: Lengths, passes: int, vision_passes: int
) -> float:
    """Of a loss on some first turns: the policy's passes over each turn and its prompt, and the teacher's forward one.

    Args:
        size: of the policy.
        distillation: what is taken from the teacher.
        turns: whose loss it is; equal ones are seldom in the same pass.
        lengths: of each.
        passes: × parameters × tokens, of the policy's language model.
        vision_passes: those of its vision tower.
    """
    teacher = distillation.teacher
    asked = [(size, passes, vision_passes), *([(teacher, 2, 2)] if teacher else [])]
    # One figure: the edited one comes behind the turn.
    return turns * sum(
        text * model.language * lengths.attributed + vision * model.vision * lengths.patches / 2
        for model, text, vision in asked
    )


def generation_seconds(
    size: ModelSize,
    rates: Rates,
    sequences: float,
    lengths: Lengths,
    turns: int,
    by_vllm: bool = False,
    alike: int = 1,
) -> float:
    """Of some sequences that one GPU decodes together: prompts by arithmetic, tokens by memory bandwidth.

    Args:
        size: of the model.
        rates: what the GPU does.
        sequences: how many.
        lengths: of each.
        turns: of each; a figure comes with every one.
        by_vllm: whether vLLM decodes them.
        alike: sequences of one prompt, which vLLM reads once.
    """
    firsts = sequences / alike if by_vllm else sequences
    tokens = firsts * lengths.prompt + (sequences * lengths.image if turns > 1 else 0)
    figures = firsts + (turns - 1) * sequences
    prefill = 2 * (size.language * tokens + size.vision * figures * lengths.patches / 2)
    read = 2 * size.language + sequences * lengths.sequence * kv_bytes(size)
    token = max(read / (rates.bandwidth_tb * 1e12), 0 if by_vllm else _TOKEN_SECONDS)
    return prefill / (rates.tflops * 1e12) + turns * lengths.turn * token


def step_seconds(
    size: ModelSize,
    hardware: HardwareConfig,
    rates: Rates,
    settings: TrainConfig,
    typical: Lengths,
    attribution: AttributionConfig | None = None,
    distillation: Distillation | None = None,
) -> float:
    """Of one optimizer step of a training job.

    Args:
        size: of the policy.
        hardware: how its processes share the work.
        rates: what a GPU does.
        settings: of the run.
        typical: its rollouts.
        attribution: where the method attributes calls.
        distillation: where it adds a loss from the teacher.
    """
    rollouts = settings.groups_per_step * settings.group_size
    by_vllm = settings.rollouts != "transformers"
    generation = generation_seconds(
        size, rates, rollouts / hardware.processes, typical, 2, by_vllm, alike=settings.group_size
    )
    # Forward once more: recomputed activations, the reference policy.
    again = hardware.checkpoint_activations + (settings.kl_beta > 0)
    # Frozen weights have no gradient of their own, and nothing goes back through a frozen vision tower.
    text, vision = (4, 2) if hardware.lora_rank else (6, 6)
    flops = update_flops(size, rollouts, typical, text + 2 * again, vision + 2 * again)
    if attribution is not None:
        # Every second call of a group is another's equal.
        calls = rollouts / 2
        # Where processes shard the weights, backward passes keep step by one call a row.
        apart = hardware.strategy == "fsdp2" and not by_tangents(attribution)
        prompts = None if apart else settings.groups_per_step
        flops += attribution_flops(size, attribution, calls, typical, prompts)
    if distillation is not None:
        turns = distillation.turns(settings.groups_per_step, rollouts)
        recomputed = 2 * hardware.checkpoint_activations
        flops += distillation_flops(size, distillation, turns, typical, text + recomputed, vision + recomputed)
    return generation + flops / (hardware.processes * rates.tflops * 1e12)


def sampling_seconds(
    size: ModelSize, rates: Rates, prompts: float, lengths: Lengths, *, together: int, turns: int, by_vllm: bool = False
) -> float:
    """Of some prompts on one GPU outside training.

    Args:
        size: of the model.
        rates: what the GPU does.
        prompts: how many, or how often.
        lengths: of each.
        together: prompts in a batch, which ends with its longest turn: about twice the typical one.
        turns: of each prompt.
        by_vllm: whether vLLM runs it, which takes the next prompt as soon as a turn has ended.
    """
    if by_vllm:
        together = _VLLM_TOGETHER
        return prompts / together * generation_seconds(size, rates, together, lengths, turns, by_vllm=True)
    batch = generation_seconds(size, rates, together, lengths, turns) + turns * lengths.turn * _TOKEN_SECONDS
    return math.ceil(prompts / together) * batch
