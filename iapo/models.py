"""Tiny Qwen2.5-VL models from configuration, and any saved one, behind the same two calls."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoProcessor, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from iapo.config import ModelConfig
from iapo.processor import build_processor, set_response_template
from iapo.provenance import atomic_directory

_HEADS = 4
_POSITIONS = 1024


def build_model(
    config: ModelConfig, *, seed: int, hints: bool = False
) -> tuple[Qwen2_5_VLForConditionalGeneration, Any]:
    """A tiny Qwen2.5-VL with random weights and its processor.

    Args:
        config: widths and depths.
        seed: of the initial weights.
        hints: whether the tokenizer knows the words of the shortcut world.

    Returns:
        The model (float32, on the CPU) and its processor.
    """
    processor = build_processor(hints)
    tokenizer = processor.tokenizer
    token_id = tokenizer.convert_tokens_to_ids
    pad, end = tokenizer.pad_token_id, tokenizer.eos_token_id
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(
            text_config={
                **_text_config(config),
                "vocab_size": len(tokenizer),
                "bos_token_id": pad,
                "eos_token_id": end,
                "pad_token_id": pad,
            },
            vision_config=_vision_config(config),
            initializer_range=config.initializer_range,  # type: ignore[call-arg]
            image_token_id=token_id("<|image_pad|>"),
            video_token_id=token_id("<|video_pad|>"),
            vision_start_token_id=token_id("<|vision_start|>"),
            vision_end_token_id=token_id("<|vision_end|>"),
            tie_word_embeddings=True,
        )
    )
    model.generation_config.eos_token_id = [end]
    model.generation_config.pad_token_id = pad
    return model, processor


def _text_config(config: ModelConfig) -> dict[str, Any]:
    half_head = config.hidden_size // _HEADS // 2
    third = half_head // 3
    return {
        "hidden_size": config.hidden_size,
        "intermediate_size": 3 * config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": _HEADS,
        "num_key_value_heads": _HEADS,
        "max_position_embeddings": _POSITIONS,
        "initializer_range": config.initializer_range,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1000.0,
            # Time, height and width share the head's rotary pairs; they must add up to half a head.
            "mrope_section": [half_head - 2 * ((half_head - third) // 2)] + [(half_head - third) // 2] * 2,
        },
        "tie_word_embeddings": True,
    }


def _vision_config(config: ModelConfig) -> dict[str, Any]:
    return {
        "depth": config.vision_depth,
        "hidden_size": config.vision_hidden_size,
        "intermediate_size": 2 * config.vision_hidden_size,
        "num_heads": _HEADS,
        "out_hidden_size": config.hidden_size,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 28,
        "fullatt_block_indexes": [],
        "initializer_range": config.initializer_range,
    }


def load_model(directory: Path, *, device: str = "cpu") -> tuple[Qwen2_5_VLForConditionalGeneration, Any]:
    """A saved model in eval mode and its processor, left-padded.

    Args:
        directory: an ordinary pretrained directory.
        device: where the weights go.
    """
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(directory, dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(directory, padding_side="left")
    if getattr(processor.tokenizer, "response_template", None) is None:
        set_response_template(processor.tokenizer)
    model.eval()
    return model.to(device), processor  # type: ignore[arg-type]


_ONE_FILE = "1TB"
"""Largest shard: the workflow tracks a model by its one weights file."""


def save_model(model: Any, processor: Any, directory: Path, *, weights: Mapping[str, Tensor] | None = None) -> None:
    """Write both as one pretrained directory, whole or not at all.

    Args:
        model: whose class and configuration are saved.
        processor: its processor.
        directory: becomes the pretrained directory.
        weights: its whole state where the model holds a shard only; its own when absent.
    """
    with atomic_directory(directory) as partial:
        model.save_pretrained(partial, state_dict=weights, max_shard_size=_ONE_FILE)
        processor.save_pretrained(partial)
