"""Loading and saving of models as ordinary pretrained directories.

A directory is written atomically, so an interrupted job leaves no half a checkpoint behind.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from transformers import AutoProcessor

from iapo.artifacts.files import atomic_directory
from iapo.config.schema import Config
from iapo.config.sources import Precision
from iapo.models.interfaces import Policy, Processor, QwenVL
from iapo.models.processor import set_response_template
from iapo.models.vision_windows import batch_windows

_MAX_SHARD_SIZE = "1TB"
"""Larger than any model, so that all weights land in one file, which is what the workflow tracks."""


def load_model(directory: Path, *, device: str = "cpu", precision: Precision = "float32") -> Policy:
    """Load a saved model in eval mode, and its left-padded processor.

    Args:
        directory: a pretrained directory, as :func:`save_model` writes it.
        device: the device for the weights.
        precision: the weights' dtype. A model that will be trained keeps float32, since small updates are lost in
            bfloat16.
    """
    batch_windows()
    model = QwenVL.from_pretrained(directory, dtype=getattr(torch, precision))
    model.eval()
    return model.to(device), load_processor(directory)  # type: ignore[arg-type]


def load_processor(directory: Path) -> Processor:
    """Load a saved model's processor alone, left-padded.

    Args:
        directory: a pretrained directory.
    """
    processor = AutoProcessor.from_pretrained(directory, padding_side="left")
    set_response_template(processor.tokenizer)
    return cast(Processor, processor)


def load_to_run(directory: Path, config: Config) -> Policy:
    """Load a model that is not trained: where, and in the precision in which, the configuration runs such models.

    Args:
        directory: a pretrained directory.
        config: of the run.
    """
    return load_model(directory, device=config.device, precision=config.hardware.precision)


def save_model(
    model: Any, processor: Processor, directory: Path, *, weights: Mapping[str, Tensor] | None = None
) -> None:
    """Write a model and its processor into one pretrained directory, atomically.

    Args:
        model: a :data:`QwenVL`, possibly as accelerate or PEFT unwraps it.
        processor: the model's processor.
        directory: the pretrained directory to write.
        weights: the full state dict, needed where ``model`` holds only a shard; None saves the model's own weights.
    """
    with atomic_directory(directory) as tmp:
        model.save_pretrained(tmp, state_dict=weights, max_shard_size=_MAX_SHARD_SIZE)
        processor.save_pretrained(tmp)
