"""Random weights in the shapes of Qwen2.5-VL, built where they run, with its true processor."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from transformers import Qwen2_5_VLConfig
from trl.chat_template_utils import qwen3_vl_chat_template

from benchmarks.gpu_check.scale import Scale
from benchmarks.perf.generated_turns import byte_processor
from benchmarks.rehearsal.qwen import true_processor
from iapo.jobs.model_sizes import PATCH, TOKEN_PIXELS, ModelSize
from iapo.models.interfaces import Policy, Processor, QwenVL
from iapo.models.loading import save_model
from iapo.models.processor import set_response_template
from iapo.models.vision_windows import batch_windows

_MAX_PIXELS = 2097152
"""Bound on a figure's area, as in config/paper.yaml."""


def qwen_config(size: ModelSize, processor: Processor) -> Qwen2_5_VLConfig:
    """Return the configuration of a Qwen2.5-VL.

    Args:
        size: its widths and depths.
        processor: knows the special tokens.
    """
    token = processor.tokenizer.get_vocab()
    half_head = size.hidden // size.heads // 2
    full_attention = min(8, size.vision_layers)
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": size.vocabulary,
            "hidden_size": size.hidden,
            "intermediate_size": size.mlp,
            "num_hidden_layers": size.layers,
            "num_attention_heads": size.heads,
            "num_key_value_heads": size.kv_heads,
            "max_position_embeddings": 128000,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [half_head // 4] + [3 * half_head // 8] * 2,
            },
            "bos_token_id": token["<|endoftext|>"],
            "eos_token_id": token["<|im_end|>"],
            "tie_word_embeddings": size.tied,
        },
        vision_config={
            "depth": size.vision_layers,
            "hidden_size": size.vision_hidden,
            "intermediate_size": size.vision_mlp,
            "num_heads": max(2, size.vision_hidden // 80),
            "out_hidden_size": size.hidden,
            "patch_size": PATCH,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 8 * PATCH,
            "fullatt_block_indexes": list(range(full_attention - 1, size.vision_layers, full_attention)),
        },
        image_token_id=token["<|image_pad|>"],
        video_token_id=token["<|video_pad|>"],
        vision_start_token_id=token["<|vision_start|>"],
        vision_end_token_id=token["<|vision_end|>"],
        tie_word_embeddings=size.tied,
    )


def random_policy(size: ModelSize, scale: Scale, device: torch.device | str, dtype: torch.dtype) -> Policy:
    """Return a model with random weights in eval mode, prepared as a downloaded one is, and its processor.

    Args:
        size: its widths and depths.
        scale: says which processor.
        device: where the weights are drawn and stay.
        dtype: of the weights.
    """
    batch_windows()
    processor = prepared_processor(scale)
    torch.manual_seed(0)
    with torch.device(device):
        model: QwenVL = QwenVL._from_config(qwen_config(size, processor), dtype=dtype)
    # In the settings of generation, as published: as part of the configuration it would make the embedding zero.
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    return model.eval(), processor


@cache
def prepared_processor(scale: Scale) -> Processor:
    """Return the processor of a scale's models; building Qwen2.5-VL's takes seconds.

    Tiny models read single bytes by a short template, the others Qwen2.5-VL's tokens by the template of a run.

    Args:
        scale: says which.
    """
    if scale.name == "tiny":
        return byte_processor()
    processor: Processor = true_processor()
    processor.chat_template = processor.tokenizer.chat_template = qwen3_vl_chat_template
    processor.image_processor.size = {"shortest_edge": TOKEN_PIXELS, "longest_edge": _MAX_PIXELS}
    set_response_template(processor.tokenizer)
    return processor


def start_directory(work: Path, size: ModelSize, scale: Scale, device: str) -> Path:
    """Return a pretrained directory with random weights in bfloat16, written where it is not there yet.

    Args:
        work: folder of what checks leave for each other.
        size: of the model.
        scale: says which processor.
        device: where the weights are drawn.
    """
    directory = work / f"start-{size.layers}-{size.hidden}-{size.mlp}"
    if not directory.exists():
        save_model(*random_policy(size, scale, device, torch.bfloat16), directory)
        # A process that trains may need all of the GPU.
        torch.cuda.empty_cache()
    return directory
