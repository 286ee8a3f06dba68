"""A downloaded Qwen2.5-VL made ready to start from, and what its data asks of a rollout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from transformers import AutoProcessor, GenerationConfig, Qwen2_5_VLForConditionalGeneration
from trl.chat_template_utils import qwen3_vl_chat_template

from iapo.config_sources import PretrainedConfig
from iapo.env import tool_schemas
from iapo.models import save_model
from iapo.prompts import undecoded_image
from iapo.rollout import tool_suffix_ids
from iapo.types import Example


def prepare(source: Path, output: Path, settings: PretrainedConfig) -> Qwen2_5_VLForConditionalGeneration:
    """From a downloaded directory to the one that every stage starts from: our template, one weights file.

    Qwen2.5-VL's own chat template has no place for tools, so TRL's Qwen3-VL template takes its place. The bounds on
    the pixels are saved with the processor, so that whoever loads a checkpoint sees images as it was trained on them.

    Args:
        source: as downloaded.
        output: gets the pretrained directory, whole or not at all.
        settings: bounds on an image's pixels.

    Returns:
        The model as it was saved.
    """
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(source, dtype="auto")
    processor = AutoProcessor.from_pretrained(source, padding_side="left")
    processor.chat_template = processor.tokenizer.chat_template = qwen3_vl_chat_template
    processor.image_processor.size = {"shortest_edge": settings.min_pixels, "longest_edge": settings.max_pixels}
    given = model.generation_config
    # A checkpoint's sampling defaults (Qwen's: near greedy, repetitions punished) would bend evaluation.
    model.generation_config = GenerationConfig(eos_token_id=given.eos_token_id, pad_token_id=given.pad_token_id)
    save_model(model, processor, output)
    return model


def longest_completion(processor: Any, examples: Sequence[Example], turn_tokens: int) -> int:
    """Tokens of two turns and of the longest answer that a tool can give to some questions.

    Args:
        processor: the model's.
        examples: questions, one at least.
        turn_tokens: longest turn, tokens.
    """
    answers = {(tool_schemas(each.figure.kind)[0]["function"]["name"], undecoded_image(each).size) for each in examples}
    return 2 * turn_tokens + max(len(tool_suffix_ids(processor, [_shown(*answer)])) for answer in answers)


def _shown(name: str, size: tuple[int, int]) -> dict[str, Any]:
    """A tool's answer with an image of this size, whatever it shows."""
    return {"role": "tool", "name": name, "content": [{"type": "image", "image": Image.new("RGB", size)}]}
