"""Tiny, randomly initialized Qwen2.5-VL models built from a configuration.

They have the architecture of the downloaded models with a few layers and a small vocabulary, so that every stage runs
on a CPU.
"""

from __future__ import annotations

import torch
from transformers import Qwen2_5_VLConfig

from iapo.config.mini_world import DataConfig, ModelConfig
from iapo.models.interfaces import Policy, QwenVL
from iapo.models.processor import build_processor

_NUM_HEADS = 4
_MAX_POSITIONS = 1024


def build_model(config: ModelConfig, *, seed: int, data: DataConfig | None = None) -> Policy:
    """Build a tiny Qwen2.5-VL with random weights, and its processor.

    Args:
        config: widths and depths of the decoder and of the vision tower.
        seed: seed of the initial weights.
        data: the world, whose words the vocabulary holds; None for the default's.

    Returns:
        The model (float32, on the CPU) and its processor.
    """
    processor = build_processor(data)
    tokenizer = processor.tokenizer
    token_id = tokenizer.convert_tokens_to_ids
    pad, end = tokenizer.pad_token_id, tokenizer.eos_token_id
    torch.manual_seed(seed)
    model = QwenVL(
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


def _text_config(config: ModelConfig) -> dict[str, object]:
    half_head = config.hidden_size // _NUM_HEADS // 2
    third = half_head // 3
    return {
        "hidden_size": config.hidden_size,
        "intermediate_size": 3 * config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": _NUM_HEADS,
        "num_key_value_heads": _NUM_HEADS,
        "max_position_embeddings": _MAX_POSITIONS,
        "initializer_range": config.initializer_range,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1000.0,
            # The rotary pairs of a head are split among time, height and width; the three must add up to half a head.
            "mrope_section": [half_head - 2 * ((half_head - third) // 2)] + [(half_head - third) // 2] * 2,
        },
        "tie_word_embeddings": True,
    }


def _vision_config(config: ModelConfig) -> dict[str, object]:
    return {
        "depth": config.vision_depth,
        "hidden_size": config.vision_hidden_size,
        "intermediate_size": 2 * config.vision_hidden_size,
        "num_heads": _NUM_HEADS,
        "out_hidden_size": config.hidden_size,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 28,
        "fullatt_block_indexes": [],
        "initializer_range": config.initializer_range,
    }
