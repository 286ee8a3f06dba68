"""Collation: recorded tool turns and their prompts as one padded batch to attribute.

Rows whose turns follow the same prompt are marked, so that its images pass the vision tower once and, where possible,
its tokens pass the decoder once.

Shapes: B turns, L tokens of the longest prompt and turn, K blocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from iapo.attribution.partition import NO_BLOCK, block_ids
from iapo.config.method import Partition
from iapo.data.prompts import prompt_messages
from iapo.models.interfaces import Processor
from iapo.models.processor import IMAGE_TOKEN
from iapo.rollout.encoding import EncodedPrompt
from iapo.rollout.environment import tool_schemas
from iapo.rollout.turns import PromptInputs, ToolTurn
from iapo.types import Example


def example_inputs(
    processor: Processor, example: Example, prompt: EncodedPrompt, partition: Partition = "four_block"
) -> PromptInputs:
    """Build the record of a prompt that the trainer would have made, for a prompt outside training.

    Args:
        processor: the model's.
        example: the question and its figure.
        prompt: the question's prompt, encoded with the tools of its figure kind.
        partition: how the prompt is divided into blocks.

    Returns:
        The prompt with its block ids.

    Raises:
        ValueError: when ``prompt`` is not this example's.
    """
    image_id = processor.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    fields = {
        "pixel_values": prompt.pixel_values,
        "image_grid_thw": prompt.image_grid_thw,
        "mm_token_type_ids": [[int(token == image_id) for token in prompt.input_ids]],
    }
    figure = example.figure
    tools = list(tool_schemas(figure.kind))
    blocks = block_ids(processor, prompt_messages(example), tools, prompt.input_ids, partition=partition, figure=figure)
    return PromptInputs(prompt.input_ids, fields, blocks)


def calls_batch(
    turns: Sequence[ToolTurn], tokenizer: PreTrainedTokenizerBase, device: torch.device | str, target: str = "call"
) -> dict[str, Tensor]:
    """Collate prompts and tool turns into one left-padded batch for :func:`iapo.attribution.api.attribute`.

    Turns that share a :class:`PromptInputs` object share its images, which then pass the vision tower once.

    Args:
        turns: [B] turns that call tools.
        tokenizer: for the pad token and the call's tags.
        device: where the tensors go.
        target: which of a turn's tokens are attributed: ``call`` (tool calls with their tags) or ``turn`` (all).

    Returns:
        ``input_ids, attention_mask, mm_token_type_ids, target_mask, block_ids`` [B, L],
        ``prompt_rows, turn_lengths`` [B] and, unless no prompt has an image, ``pixel_values`` [patches, channels],
        ``image_grid_thw`` [images, 3], ``image_rows`` [images shown], ``image_counts`` [B].
    """
    width = max(turn.length for turn in turns)
    prompts = list(dict.fromkeys(id(turn.prompt) for turn in turns))

    def padded(rows: Iterable[Sequence[int]], filler: int) -> Tensor:
        return torch.tensor([[*[filler] * (width - len(row)), *row] for row in rows])

    calls = [call_tokens(turn.ids, tokenizer) if target == "call" else [True] * len(turn.ids) for turn in turns]
    images = [turn.prompt.fields["mm_token_type_ids"][0] for turn in turns]
    batch = {
        "input_ids": padded((turn.prompt.input_ids + turn.ids for turn in turns), tokenizer.pad_token_id),
        "attention_mask": padded(([1] * turn.length for turn in turns), 0),
        "mm_token_type_ids": padded(
            ([*image, *[0] * len(turn.ids)] for image, turn in zip(images, turns, strict=True)), 0
        ),
        "target_mask": padded(
            ([False] * len(turn.prompt.input_ids) + call for call, turn in zip(calls, turns, strict=True)), False
        ),
        "block_ids": padded((turn.prompt.block_ids + [NO_BLOCK] * len(turn.ids) for turn in turns), NO_BLOCK),
        "prompt_rows": torch.tensor([prompts.index(id(turn.prompt)) for turn in turns]),
        "turn_lengths": torch.tensor([len(turn.ids) for turn in turns]),
        **_shared_images(turns),
    }
    return {name: tensor.to(device) for name, tensor in batch.items()}


def _shared_images(turns: Sequence[ToolTurn]) -> dict[str, Tensor]:
    """Collect the images of the distinct prompts, and per row which of them it shows."""
    prompts = {id(turn.prompt): turn.prompt for turn in turns if "pixel_values" in turn.prompt.fields}
    if not prompts:
        return {}
    first_image: dict[int, int] = {}
    count = 0
    for key, prompt in prompts.items():
        first_image[key] = count
        count += len(prompt.fields["image_grid_thw"])
    image_rows = [
        first_image[id(turn.prompt)] + i
        for turn in turns
        if id(turn.prompt) in first_image
        for i in range(len(turn.prompt.fields["image_grid_thw"]))
    ]
    counts = [len(turn.prompt.fields.get("image_grid_thw", ())) for turn in turns]
    return {
        "pixel_values": torch.cat([prompt.fields["pixel_values"] for prompt in prompts.values()]),
        "image_grid_thw": torch.cat([prompt.fields["image_grid_thw"] for prompt in prompts.values()]),
        "image_rows": torch.tensor(image_rows),
        "image_counts": torch.tensor(counts),
    }


def call_tokens(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[bool]:
    """Mark the tokens of a turn that belong to its tool calls, tags included; the text around them is context.

    Args:
        ids: [L] token ids of the turn.
        tokenizer: knows the tags' ids.

    Returns:
        [L], True inside a call. A call without a closing tag runs to the end of the turn.
    """
    opening, closing = (tokenizer.convert_tokens_to_ids(tag) for tag in ("<tool_call>", "</tool_call>"))
    mask, inside = [], False
    for token in ids:
        inside = inside or token == opening
        mask.append(inside)
        inside = inside and token != closing
    return mask
