"""The types that every stage passes around: policies, processors and the pair of both.

``transformers`` builds its processors dynamically, so :class:`Processor` states the part that this project uses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from PIL import Image
from torch import Tensor
from transformers import PreTrainedTokenizerBase, Qwen2_5_VLForConditionalGeneration

QwenVL = Qwen2_5_VLForConditionalGeneration
"""A policy or a teacher, tiny or downloaded, without the wrappers of distributed training and LoRA adapters."""


class ImageProcessor(Protocol):
    """The part of a processor that resizes images and cuts them into patches."""

    merge_size: int
    """Side length, in patches, of the square that is merged into one image token."""
    size: dict[str, int]
    """Bounds on an image's area in pixels: ``shortest_edge`` is the minimum, ``longest_edge`` the maximum."""

    def __call__(self, *, images: Sequence[Image.Image], return_tensors: str) -> Mapping[str, Tensor]:
        """Return ``pixel_values`` [patches, channels] and ``image_grid_thw`` [images, 3]."""

    def get_number_of_image_patches(self, height: int, width: int) -> int:
        """Return how many patches an image of this size in pixels has, before merging."""


class Processor(Protocol):
    """The used part of ``Qwen2_5_VLProcessor``, whose own attributes are set at run time and carry no types."""

    tokenizer: PreTrainedTokenizerBase
    """The text tokenizer, left-padded."""
    image_processor: ImageProcessor
    """The image half of the processor."""
    image_token_id: int
    """Id of ``<|image_pad|>``, which stands once for every merged patch of an image."""
    chat_template: str | dict[str, str] | None
    """The Jinja template that renders conversations."""

    def __call__(
        self, *, text: Sequence[str], images: Sequence[Image.Image] | None, **options: Any
    ) -> Mapping[str, Tensor]:
        """Tokenize rendered conversations, expand their image tokens and preprocess their images; None without any."""

    def __hash__(self) -> int:
        """Return the identity hash, so that results can be cached per processor."""

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any:
        """Render one conversation or a batch; with ``tokenize=True`` also tokenize it.

        Returns:
            Text, token ids or a mapping of tensors, depending on ``options``.
        """

    def save_pretrained(self, save_directory: Path) -> object:
        """Write the processor's files into a pretrained directory."""


PixelBounds = tuple[int, int]
"""Least and largest area of an image, pixels: others are enlarged or reduced to it."""

Policy = tuple[QwenVL, Processor]
"""A model in eval mode and its processor, as :func:`iapo.models.loading.load_model` returns them."""
