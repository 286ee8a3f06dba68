"""Tokenized prompts: chat messages and images turned into the model's inputs.

Training, evaluation and the teacher all render prompts with the same chat template and the tools of the figure's kind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from iapo.data.prompts import Message, prompt_messages
from iapo.models.interfaces import Processor
from iapo.rollout.environment import tool_schemas
from iapo.types import Example, FigureKind


@dataclass(frozen=True)
class EncodedPrompt:
    """One tokenized prompt, without padding."""

    input_ids: list[int]
    """[L] token ids, image tokens expanded to one per merged patch."""
    pixel_values: Tensor
    """[patches, channels] of all images."""
    image_grid_thw: Tensor
    """[images, 3] patches in time, height and width."""
    images: tuple[Image.Image, ...] = ()
    """The images themselves, for an engine that cuts them into patches itself."""


def encode_prompt(processor: Processor, messages: Sequence[Message], kind: FigureKind) -> EncodedPrompt:
    """Render and tokenize one conversation together with the tool definitions of its figure kind.

    Args:
        processor: the model's processor.
        messages: the conversation so far; the assistant speaks next.
        kind: the figure kind, which decides the tools.
    """
    encoded = _render(processor, [messages], kind)
    return EncodedPrompt(
        encoded["input_ids"][0].tolist(), encoded["pixel_values"], encoded["image_grid_thw"], images_of(messages)
    )


def images_of(messages: Sequence[Message]) -> tuple[Image.Image, ...]:
    """Return the images of some messages, in order."""
    contents = [message["content"] for message in messages]
    parts = [part for content in contents if isinstance(content, list) for part in content]
    return tuple(part["image"] for part in parts if part["type"] == "image")


def encode_examples(
    processor: Processor, examples: Sequence[Example], images: Sequence[Image.Image], *, tools: bool = True
) -> list[EncodedPrompt]:
    """Render and tokenize the prompts of a batch of questions.

    Equal to :func:`encode_prompt` on each. Most of the cost is per call of the processor, so prompts with the same
    tools are encoded in one call.

    Args:
        processor: the model's processor.
        examples: [B] questions.
        images: [B] decoded figures of the questions.
        tools: whether the prompts define the tools of their figure kinds; False defines none.
    """
    kinds = [example.figure.kind if tools else None for example in examples]
    prompts: dict[int, EncodedPrompt] = {}
    for kind in dict.fromkeys(kinds):
        rows = [i for i, other in enumerate(kinds) if other == kind]
        encoded = _render(processor, [prompt_messages(examples[i], images[i]) for i in rows], kind)
        grids = encoded["image_grid_thw"]
        pixels = encoded["pixel_values"].split(grids.prod(dim=1).tolist())
        for position, i in enumerate(rows):
            ids = encoded["input_ids"][position][encoded["attention_mask"][position].bool()].tolist()
            prompts[i] = EncodedPrompt(ids, pixels[position], grids[position : position + 1], (images[i],))
    return [prompts[i] for i in range(len(examples))]


def _render(
    processor: Processor, conversations: Sequence[Sequence[Message]], kind: FigureKind | None
) -> Mapping[str, Tensor]:
    """Tokenize conversations into padded tensors: ids and mask [B, L], and the images of all of them."""
    encoded: Mapping[str, Tensor] = processor.apply_chat_template(
        [list(messages) for messages in conversations],
        tools=None if kind is None else list(tool_schemas(kind)),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True},
    )
    return encoded
