"""What one job costs in GPU memory and time: the formulas of docs/estimate.md. No torch.

Symbols as there. Bytes and seconds unless a name says otherwise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from iapo.config.method import AttributionConfig, TrainConfig
from iapo.config.sources import HardwareConfig, PretrainedConfig
from iapo.jobs.model_sizes import MERGED, TOKEN_PIXELS, ModelSize

GB = 1e9


Arithmetic = Literal["bfloat16", "mixed", "float32"]
"""Weights and arithmetic in bfloat16; weights in float32 cast by autocast; both in float32."""


_TEXT_TOKENS = 1500
"""Tool definitions, template and question."""


_IMAGE_TOKENS = 1000
"""A figure of 0.8 megapixels."""


_TURN_TOKENS = 256
"""Of a turn that may be longer."""


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


_PIXEL_BYTES = 4 * 3 * 2 * 14 * 14
"""Of a patch, in float32."""


_LOGIT_TILE = 4096 * 32768 * 2
"""Of TRL's fused head, which never holds all logits of a completion."""


_LOGIT_BYTES = 10
"""Of a logit that attribution reads: in bfloat16, in float32, and its gradient."""


_LOGITS_TOGETHER = 2**26
"""That attribution by tangents reads at a time, as ``iapo.attribution.shared_prompts.forward_engine``."""


_SCORE_BYTES = 4 * 4 * 2**26
"""Of the attention scores that a GPU holds at a time there, and three more of their size, in float32."""


_TANGENTS = {True: (7, 21), False: (13, 23)}
"""Whether products are in bfloat16 → bytes that attribution by tangents holds for a token or tangent in the layer at
hand: × MLP width and × hidden width. Measured with torch's memory tracker."""


_MEMORY = 8
"""Bytes of keys and values, which keep float32: × their width, in every layer."""


_STREAMS = 5
"""A call's tokens, and a tangent of each of the four blocks through all of them."""


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


_ANCHORS = ((5e9, Rates(tflops=80, bandwidth_tb=1)), (math.inf, Rates(tflops=160, bandwidth_tb=1)))
"""Largest number of parameters → what public runs came to, with all that is no arithmetic: EasyR1's baselines on 8 H100
take 120 s for 2,560 rollouts with the 3B model and 120 to 145 s with the 7B one, 8 % and 16 to 23 % of the peak."""


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


@dataclass(frozen=True)
class Lengths:
    """Tokens of one rollout: a prompt with a figure, a turn, the edited figure, another turn."""

    image: int
    """Of each of the two figures."""
    turn: int
    completion: int
    """Both turns and the edited figure."""

    @property
    def prompt(self) -> int:
        """Text and figure."""
        return _TEXT_TOKENS + self.image

    @property
    def sequence(self) -> int:
        """All."""
        return self.prompt + self.completion

    @property
    def attributed(self) -> int:
        """What one point of an attribution passes through the model: prompt and first turn."""
        return self.prompt + self.turn

    @property
    def moving(self) -> int:
        """Tokens of a prompt and tangents of its blocks, each from its first token on: the tools' from the start, the
        image's from behind them, those of the few words that follow not counted."""
        return 2 * self.prompt + self.image

    @property
    def patches(self) -> int:
        """Of both figures."""
        return 2 * MERGED * self.image


def typical_lengths(model: PretrainedConfig, turn_tokens: int) -> Lengths:
    """What time is reckoned with."""
    image = min(max(_IMAGE_TOKENS, model.min_pixels // TOKEN_PIXELS), model.max_pixels // TOKEN_PIXELS)
    turn = min(turn_tokens, _TURN_TOKENS)
    return Lengths(image, turn, 2 * turn + image)


def longest_lengths(model: PretrainedConfig, turn_tokens: int, completion: int | None = None) -> Lengths:
    """What memory is reckoned with: the largest figure and turns up to their limit."""
    image = model.max_pixels // TOKEN_PIXELS
    both = 2 * turn_tokens + image
    return Lengths(image, turn_tokens, min(completion or both, both))


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
) -> float:
    """GB that a GPU must have for its process of a training job.

    Args:
        size: of the trained model.
        hardware: how the processes share it.
        settings: of the run.
        longest: its longest rollout.
        attribution: where the method attributes calls.
        beside: bytes of another model in the same process, a verifier.
    """
    rollouts = settings.groups_per_step * settings.group_size / hardware.processes
    held = min(hardware.rollouts_per_forward or rollouts, rollouts)
    # FSDP2 and DeepSpeed hold what they compute with in bfloat16; under DDP autocast keeps such a copy of its own.
    frozen = hardware.lora_rank > 0 and hardware.precision == "bfloat16"
    arithmetic: Arithmetic = "mixed" if hardware.strategy == "ddp" and not frozen else "bfloat16"
    copy = 2 * size.parameters if arithmetic == "mixed" else 0
    patches = 0 if hardware.lora_rank else held * longest.patches
    saved = saved_activations(size, arithmetic, held * longest.sequence, patches, hardware.checkpoint_activations)
    saved += _PIXEL_BYTES * held * longest.patches
    head = _LOGIT_TILE + (0 if hardware.lora_rank else 4 * size.vocabulary * size.hidden)
    peaks = [saved + head]
    if attribution is not None:
        # Every process gathers the decoder for it.
        gathered = 2 * size.parameters if hardware.strategy == "fsdp2" and _by_tangents(attribution) else 0
        peaks.append(attribution_bytes(size, attribution, longest, arithmetic) + gathered)
    if settings.rollouts == "transformers":
        peaks.append(rollouts * longest.sequence * _kv_bytes(size))
    states = _OVERHEAD + beside + training_states(size, hardware, settings.kl_beta > 0) + copy
    needed = states + _FRAGMENTS * max(peaks)
    if settings.rollouts != "vllm_colocate":
        return needed / GB
    # vLLM sleeps while the policy is updated, but for what CUDA keeps of it. While it generates, the states must fit
    # beside its share, which must hold its weights and one longest sequence.
    engine = 2 * size.parameters + longest.sequence * _kv_bytes(size) + _OVERHEAD
    share = hardware.vllm_memory
    return max(needed + _OVERHEAD, states / (1 - share), engine / share) / GB


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
    pixels = settings.groups_per_step * settings.group_size * longest.patches * _PIXEL_BYTES
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
    if _by_tangents(config):
        points = max(1, config.tokens_per_forward // longest.prompt)
        columns = points * (longest.moving + _STREAMS * longest.turn)
        mlp, hidden = _TANGENTS[arithmetic != "float32"]
        of_column = mlp * size.mlp + hidden * size.hidden + size.layers * _MEMORY * size.kv_width
        logits = min(_LOGITS_TOGETHER, points * longest.turn * size.vocabulary)
        return columns * of_column + _SCORE_BYTES + _LOGIT_BYTES * logits
    # A forward and a backward pass, whose activations are all kept.
    tokens = max(config.tokens_per_forward, min(longest.attributed, config.max_tokens))
    rows = max(1, tokens // longest.attributed)
    logits = _LOGIT_BYTES * rows * longest.turn * size.vocabulary
    return saved_activations(size, arithmetic, tokens) + logits


def _by_tangents(config: AttributionConfig) -> bool:
    """Whether calls that share a prompt are attributed by a tangent a block and not by backward passes."""
    return config.method == "integrated_gradients" and config.blocks == "four_block" and not config.magnitudes


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


def generation_bytes(size: ModelSize, sequences: int, longest: Lengths) -> float:
    """Keys and values of some sequences."""
    return sequences * longest.sequence * _kv_bytes(size)


def _kv_bytes(size: ModelSize) -> float:
    """Of one token, in bfloat16."""
    return 4 * size.kv_width * size.layers


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
    elif _by_tangents(config):
        tokens = prompts * lengths.moving + _STREAMS * calls * lengths.turn
    else:
        tokens = prompts * lengths.prompt + calls * lengths.turn + own
    return 2 * config.n_steps * size.language * tokens


def generation_seconds(
    size: ModelSize, rates: Rates, sequences: float, lengths: Lengths, turns: int, by_vllm: bool = False
) -> float:
    """Of some sequences that one GPU decodes together: prompts by arithmetic, tokens by memory bandwidth."""
    tokens = lengths.prompt + (lengths.image if turns > 1 else 0)
    prefill = 2 * sequences * (size.language * tokens + size.vision * lengths.patches * turns / 2)
    read = 2 * size.language + sequences * lengths.sequence * _kv_bytes(size)
    token = max(read / (rates.bandwidth_tb * 1e12), 0 if by_vllm else _TOKEN_SECONDS)
    return prefill / (rates.tflops * 1e12) + turns * lengths.turn * token


def step_seconds(
    size: ModelSize,
    hardware: HardwareConfig,
    rates: Rates,
    settings: TrainConfig,
    typical: Lengths,
    attribution: AttributionConfig | None = None,
) -> float:
    """Of one optimizer step of a training job.

    Args:
        size: of the policy.
        hardware: how its processes share the work.
        rates: what a GPU does.
        settings: of the run.
        typical: its rollouts.
        attribution: where the method attributes calls.
    """
    rollouts = settings.groups_per_step * settings.group_size
    by_vllm = settings.rollouts != "transformers"
    generation = generation_seconds(size, rates, rollouts / hardware.processes, typical, 2, by_vllm)
    # Forward once more: recomputed activations, the reference policy, probabilities that vLLM's are held against.
    again = hardware.checkpoint_activations + (settings.kl_beta > 0) + by_vllm
    # Frozen weights have no gradient of their own, and nothing goes back through a frozen vision tower.
    text, vision = (4, 2) if hardware.lora_rank else (6, 6)
    flops = update_flops(size, rollouts, typical, text + 2 * again, vision + 2 * again)
    if attribution is not None:
        # Every second call of a group is another's equal.
        calls = rollouts / 2
        # Where processes shard the weights, backward passes keep step by one call a row.
        apart = hardware.strategy == "fsdp2" and not _by_tangents(attribution)
        prompts = None if apart else settings.groups_per_step
        flops += attribution_flops(size, attribution, calls, typical, prompts)
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
