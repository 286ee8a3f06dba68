"""Prompts and tool turns as token ids, the inputs of attribution, and the key of a prompt in a teacher cache.

Ids are kept exactly as they were sampled: decoding and tokenizing a turn again could change them.
Shape legend: L tokens of a prompt, K blocks (P, R, I, T, or more in a finer partition).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from iapo.artifacts.files import digest
from iapo.types import ToolCall


@dataclass(frozen=True)
class PromptInputs:
    """One tokenized prompt with its images and its partition into blocks."""

    input_ids: list[int]
    """[L] token ids, image tokens expanded, without padding."""
    fields: dict[str, Any]
    """The processor's other outputs: tensors such as ``pixel_values`` and ``image_grid_thw``, and lists per token."""
    block_ids: list[int] = field(default_factory=list)
    """[L] block that each token belongs to, -1 for none; empty if nothing is attributed."""

    @cached_property
    def blocks(self) -> int:
        """The number of blocks K: 4, or more in a finer partition."""
        return max(4, *(block + 1 for block in self.block_ids))

    @cached_property
    def block_lengths(self) -> Tensor:
        """The number of tokens in each block, [K]."""
        ids = torch.tensor(self.block_ids)
        return torch.bincount(ids[ids >= 0], minlength=self.blocks)

    @cached_property
    def key(self) -> str:
        """The key of the prompt's rows in a teacher cache; see :func:`prompt_key`."""
        return prompt_key(self.input_ids, self.fields.get("pixel_values"), self.fields.get("image_grid_thw"))


@dataclass(frozen=True)
class ToolTurn:
    """The first assistant turn of one rollout."""

    prompt: PromptInputs
    """The prompt it answers; turns of the same prompt share one object."""
    ids: list[int]
    """Token ids of the turn as sampled."""
    text: str
    """The turn, decoded."""
    calls: list[ToolCall] = field(default_factory=list)
    """The turn's tool calls; empty if it has none or one is malformed."""

    @property
    def length(self) -> int:
        """Length of prompt and turn together, in tokens."""
        return len(self.prompt.input_ids) + len(self.ids)


def distinct_turns(turns: Sequence[ToolTurn]) -> tuple[list[ToolTurn], list[int]]:
    """Drop turns with the same prompt object and the same token ids as an earlier one.

    Returns:
        The distinct turns in order of first appearance, and for every turn in ``turns`` its index among them.
    """
    index_of: dict[tuple[int, tuple[int, ...]], int] = {}
    distinct: list[ToolTurn] = []
    for turn in turns:
        if index_of.setdefault((id(turn.prompt), tuple(turn.ids)), len(distinct)) == len(distinct):
            distinct.append(turn)
    return distinct, [index_of[id(turn.prompt), tuple(turn.ids)] for turn in turns]


def turn_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Tokenize the text of an assistant turn and append the end token."""
    return [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]


def prompt_key(
    input_ids: Sequence[int],
    pixel_values: Tensor | None = None,
    image_grid_thw: Tensor | None = None,
) -> str:
    """Return the key of a prompt's rows in a teacher cache: a hash of values, dtypes and shapes.

    The key does not depend on the teacher, since a cache holds the rows of a single teacher, named by its fingerprint.

    Args:
        input_ids: [L] token ids of the prompt, image tokens expanded, without padding.
        pixel_values: [patches, channels] of the prompt's images; None if it has none.
        image_grid_thw: [images, 3] patches in time, height and width; None if it has no image.
    """
    return digest(
        ",".join(map(str, input_ids)).encode(),
        *(_tensor_bytes(tensor) for tensor in (pixel_values, image_grid_thw)),
    )


def _tensor_bytes(tensor: Tensor | None) -> bytes:
    if tensor is None:
        return b""
    header = f"{str(tensor.dtype).removeprefix('torch.')}{tuple(tensor.shape)}"
    # Viewed as bytes because numpy has no bfloat16.
    raw_bytes = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
    return header.encode() + raw_bytes.numpy().tobytes()
