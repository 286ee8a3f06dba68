"""Memory that one job needs, of its GPUs and of the machine: the formulas of docs/estimate.md. No torch.

Symbols as there. Bytes unless a name says otherwise.
"""

from __future__ import annotations

from typing import Literal

from iapo.config.method import AttributionConfig, TrainConfig
from iapo.config.sources import HardwareConfig
from iapo.jobs.lengths import GB, STREAMS, Distillation, Lengths, by_tangents, kv_bytes
from iapo.jobs.model_sizes import ModelSize

Arithmetic = Literal["bfloat16", "mixed", "float32"]
"""Weights and arithmetic in bfloat16; weights in float32 cast by autocast; both in float32."""


_SAVED: dict[Arithmetic, tuple[int, int, int, int]] = {
    "bfloat16": (8, 20, 24, 4),
    "mixed": (8, 30, 26, 4),
    "float32": (16, 32, 40, 8),
}
"""Bytes that autograd saves a token and layer: × MLP width, × hidden width of the language model, × that of the vision
tower, × width of the keys. Measured with saved-tensor hooks on transformers' Qwen2.5-VL with scaled dot products, the
windows of one size in one call."""


_OVERHEAD = 2 * GB
"""CUDA's context, NCCL's buffers."""


HOST_OVERHEAD = 8 * GB
"""Of a process in the machine's own memory: Python, torch, CUDA's context, figures."""


_FRAGMENTS = 1.1
"""What the allocator needs for a byte that comes and goes."""


_ZERO_BUCKETS = 2 * GB
"""DeepSpeed's for gathering and reducing, 5e8 elements each."""


PIXEL_BYTES = 4 * 3 * 2 * 14 * 14
"""Of a patch, in float32."""


_LOGIT_TILE = 4096 * 32768 * 2
"""Of TRL's fused head, which never holds all logits of a completion."""


_LOGIT_BYTES = 10
"""Of a logit that attribution reads: in bfloat16, in float32, and its gradient."""


_DIVERGENCE_BYTES = 24
"""Of a logit whose divergence from the teacher's is taken: both in bfloat16; in float32 the student's log-probability,
probability, difference and gradient, and the teacher's log-probability."""


_LOGITS_TOGETHER = 2**26
"""That attribution by tangents reads at a time, as ``iapo.attribution.shared_prompts.forward_engine``."""


_SCORE_BYTES = 4 * 4 * 2**26
"""Of the attention scores that a GPU holds at a time there, and three more of their size, in float32."""


_TANGENTS = {True: (7, 21), False: (13, 23)}
"""Whether products are in bfloat16 → bytes that attribution by tangents holds for a token or tangent in the layer at
hand: × MLP width and × hidden width. Measured with torch's memory tracker."""


_MEMORY = 8
"""Bytes of keys and values, which keep float32: × their width, in every layer."""


_READING = 3
"""Values of the MLP's width that a layer holds for each token while prompts are read: two projections, and their
product."""


def saved_activations(
    size: ModelSize, arithmetic: Arithmetic, tokens: float, patches: float = 0, checkpointed: bool = False
) -> float:
    """What a forward pass keeps for the backward pass; of checkpointed layers their input, and all of one layer."""
    mlp, hidden, vision, kv = _SAVED[arithmetic]
    text_layer = tokens * (mlp * size.mlp + hidden * size.hidden + kv * size.kv_width)
    vision_layer = patches * (mlp * size.vision_mlp + (vision + kv) * size.vision_hidden)
    if not checkpointed:
        return size.layers * text_layer + size.vision_layers * vision_layer
    kept = 2 if arithmetic == "bfloat16" else 4
    inputs = size.layers * tokens * size.hidden + size.vision_layers * patches * size.vision_hidden
    return kept * inputs + max(text_layer, vision_layer)


def training_memory(
    size: ModelSize,
    hardware: HardwareConfig,
    settings: TrainConfig,
    longest: Lengths,
    attribution: AttributionConfig | None = None,
    beside: float = 0,
    distillation: Distillation | None = None,
) -> float:
    """GB that a GPU must have for its process of a training job.

    Args:
        size: of the trained model.
        hardware: how the processes share it.
        settings: of the run.
        longest: its longest rollout.
        attribution: where the method attributes calls.
        beside: bytes of another model in the same process, a verifier or the teacher.
        distillation: where the method adds a loss from the teacher.
    """
    rollouts = settings.groups_per_step * settings.group_size / hardware.processes
    held = min(hardware.rollouts_per_forward or rollouts, rollouts)
    # FSDP2 and DeepSpeed hold what they compute with in bfloat16; under DDP autocast keeps such a copy of its own.
    frozen = hardware.lora_rank > 0 and hardware.precision == "bfloat16"
    arithmetic: Arithmetic = "mixed" if hardware.strategy == "ddp" and not frozen else "bfloat16"
    copy = 2 * size.parameters if arithmetic == "mixed" else 0
    patches = 0 if hardware.lora_rank else held * longest.patches
    saved = saved_activations(size, arithmetic, held * longest.sequence, patches, hardware.checkpoint_activations)
    saved += PIXEL_BYTES * held * longest.patches
    if distillation is not None:
        # Both losses are held until one backward pass.
        turns = distillation.turns(settings.groups_per_step / hardware.processes, held)
        saved += distilled_bytes(size, hardware, distillation, turns, longest, arithmetic)
    head = _LOGIT_TILE + (0 if hardware.lora_rank else 4 * size.vocabulary * size.hidden)
    peaks = [saved + head]
    if attribution is not None:
        # Every process gathers the decoder for it.
        gathered = 2 * size.parameters if hardware.strategy == "fsdp2" and by_tangents(attribution) else 0
        peaks.append(attribution_bytes(size, attribution, longest, arithmetic) + gathered)
    if settings.rollouts == "transformers":
        # Sharded weights are whole in every process meanwhile.
        gathered = 2 * size.parameters if hardware.strategy == "fsdp2" else 0
        peaks.append(rollouts * longest.sequence * kv_bytes(size) + gathered)
    states = _OVERHEAD + beside + training_states(size, hardware, settings.kl_beta > 0) + copy
    needed = states + _FRAGMENTS * max(peaks)
    if settings.rollouts != "vllm_colocate":
        return needed / GB
    # vLLM sleeps while the policy is updated, but for what CUDA keeps of it. While it generates, the states must fit
    # beside its share, which must hold its weights and one longest sequence.
    engine = 2 * size.parameters + longest.sequence * kv_bytes(size) + _OVERHEAD
    share = hardware.vllm_memory
    return max(needed + _OVERHEAD, states / (1 - share), engine / share) / GB


def distilled_bytes(
    size: ModelSize,
    hardware: HardwareConfig,
    distillation: Distillation,
    turns: float,
    longest: Lengths,
    arithmetic: Arithmetic,
) -> float:
    """What a loss on some first turns holds until the backward pass: the policy's activations, and all logits."""
    patches = 0 if hardware.lora_rank else turns * longest.patches / 2
    tokens = turns * longest.attributed
    saved = saved_activations(size, arithmetic, tokens, patches, hardware.checkpoint_activations)
    of_logit = _DIVERGENCE_BYTES if distillation.teacher else _LOGIT_BYTES
    return saved + of_logit * turns * longest.turn * size.vocabulary


def host_memory(size: ModelSize, hardware: HardwareConfig, settings: TrainConfig, longest: Lengths) -> float:
    """GB of the machine's own memory that a training job needs, all its processes together.

    Every process loads policy and reference in float32 before it shards them; the first one gathers weights and moments
    for a checkpoint; pixels of a step wait there.

    Args:
        size: of the trained model.
        hardware: how many processes there are.
        settings: of the run.
        longest: its longest rollout.
    """
    loaded = 4 * size.parameters * hardware.processes
    if settings.kl_beta > 0 and not hardware.lora_rank:
        loaded *= 2
    saved = 12 * size.parameters
    pixels = settings.groups_per_step * settings.group_size * longest.patches * PIXEL_BYTES
    return (max(loaded, saved) + pixels + hardware.processes * HOST_OVERHEAD) / GB


def training_states(size: ModelSize, hardware: HardwareConfig, reference: bool) -> float:
    """Bytes of weights, gradients and AdamW's two moments in one process, and of its copy of the reference policy."""
    n, all_weights = hardware.processes, size.parameters
    if hardware.lora_rank:
        # The frozen weights are the reference policy too.
        return weight_bytes(hardware) * all_weights + 16 * size.adapters(hardware.lora_rank)
    if hardware.strategy == "fsdp2":
        gathered = 2 * (size.embeddings + 2 * size.layer)
        return (20 if reference else 16) * all_weights / n + gathered
    if hardware.strategy == "zero2":
        return (4 if reference else 2) * all_weights + 14 * all_weights / n + _ZERO_BUCKETS
    reduced = 4 if n > 1 else 0
    return (16 + reduced + (4 if reference else 0)) * all_weights


def attribution_bytes(size: ModelSize, config: AttributionConfig, longest: Lengths, arithmetic: Arithmetic) -> float:
    """What one pass of attribution holds beside the weights."""
    if by_tangents(config):
        points = max(1, config.tokens_per_forward // longest.prompt)
        columns = points * (longest.moving + STREAMS * longest.turn)
        mlp, hidden = _TANGENTS[arithmetic != "float32"]
        of_column = mlp * size.mlp + hidden * size.hidden + size.layers * _MEMORY * size.kv_width
        logits = min(_LOGITS_TOGETHER, points * longest.turn * size.vocabulary)
        return columns * of_column + _SCORE_BYTES + _LOGIT_BYTES * logits
    # A forward and a backward pass, whose activations are all kept.
    tokens = max(config.tokens_per_forward, min(longest.attributed, config.max_tokens))
    rows = max(1, tokens // longest.attributed)
    logits = _LOGIT_BYTES * rows * longest.turn * size.vocabulary
    return saved_activations(size, arithmetic, tokens) + logits


def running_memory(size: ModelSize, hardware: HardwareConfig, dynamic: float) -> float:
    """GB that a GPU must have for a job that trains nothing.

    Args:
        size: of the model that it holds.
        hardware: says their precision.
        dynamic: bytes that come and go.
    """
    weights = size.parameters * weight_bytes(hardware)
    return (_OVERHEAD + weights + _FRAGMENTS * dynamic) / GB


def weight_bytes(hardware: HardwareConfig) -> int:
    """Of one weight of a model that only runs."""
    return 2 if hardware.precision == "bfloat16" else 4


def generation_bytes(size: ModelSize, hardware: HardwareConfig, sequences: int, tokens: int) -> float:
    """Keys and values of some sequences of this many tokens, and what one layer holds while it reads them at once."""
    return sequences * tokens * (kv_bytes(size) + _READING * size.mlp * weight_bytes(hardware))
