"""Preparation of a downloaded Qwen2.5-VL as the starting point of every stage."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoProcessor, GenerationConfig
from trl.chat_template_utils import qwen3_vl_chat_template

from iapo.config.sources import PretrainedConfig
from iapo.models.interfaces import QwenVL
from iapo.models.loading import save_model


def prepare(source: Path, output: Path, settings: PretrainedConfig) -> QwenVL:
    """Save a downloaded model with this project's chat template, image sizes and sampling defaults, in one file.

    Qwen2.5-VL's own chat template cannot render tools, so TRL's Qwen3-VL template replaces it. The bounds on image
    size are saved with the processor, so that evaluation resizes images exactly as training did.

    Args:
        source: the directory as downloaded.
        output: the pretrained directory to write, atomically.
        settings: bounds on an image's area in pixels.

    Returns:
        The model as it was saved.
    """
    model = QwenVL.from_pretrained(source, dtype="auto")
    processor = AutoProcessor.from_pretrained(source, padding_side="left")
    processor.chat_template = processor.tokenizer.chat_template = qwen3_vl_chat_template
    processor.image_processor.size = {"shortest_edge": settings.min_pixels, "longest_edge": settings.max_pixels}
    defaults = model.generation_config
    # Qwen ships near-greedy sampling and a repetition penalty, which would bias rollouts and evaluation.
    # A checkpoint need not name a pad token, which attribution starts from; TRL names the processor's where it trains.
    pad = processor.tokenizer.pad_token_id
    model.generation_config = GenerationConfig(eos_token_id=defaults.eos_token_id, pad_token_id=pad)
    save_model(model, processor, output)
    return model
