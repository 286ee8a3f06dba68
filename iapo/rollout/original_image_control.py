"""Control answers that show whether the edited image helped, after arXiv 2602.01334.

The policy answers the same question twice more: once where the tool returns the original image, and once without tools.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from PIL import Image

from iapo.models.interfaces import Processor
from iapo.models.processor import SUPPRESSED_TOKENS
from iapo.rollout.encoding import EncodedPrompt, encode_examples
from iapo.rollout.generation import Writer, generate_turn, generate_where, turn_text
from iapo.tools.parsing import CALL_TOKEN
from iapo.types import Example


def with_original(prompt: EncodedPrompt, continued: EncodedPrompt) -> EncodedPrompt:
    """Replace every image that a tool returned by the original figure.

    Args:
        prompt: the prompt, with its one image.
        continued: the conversation after the tool message; its images have the size of the original.
    """
    images = len(continued.image_grid_thw)
    # Edits keep the image size, so the token ids stay valid.
    assert torch.equal(continued.image_grid_thw, prompt.image_grid_thw.expand(images, -1)), "a tool changed the size"
    return replace(continued, pixel_values=prompt.pixel_values.repeat(images, 1), images=prompt.images * images)


def answer_with_original(
    model: Writer,
    processor: Processor,
    prompts: Sequence[EncodedPrompt],
    continued: Mapping[int, EncodedPrompt],
    turn_tokens: int,
) -> dict[int, str]:
    """Generate the last turn again with the original image in place of the edited one.

    Args:
        model: the policy in eval mode.
        processor: the model's processor.
        prompts: [B] prompts of the batch.
        continued: row → conversation after the tool message.
        turn_tokens: maximum length of a turn, in tokens.

    Returns:
        Row → text of the last turn. Rows whose figure a tool left unchanged are absent: their answer stays the same.
    """
    originals = {i: with_original(prompts[i], prompt) for i, prompt in continued.items()}
    changed = {i: p for i, p in originals.items() if not torch.equal(p.pixel_values, continued[i].pixel_values)}
    turns = generate_where(model, processor, changed, turn_tokens)
    return {i: turn_text(processor.tokenizer, turn) for i, turn in turns.items()}


def answer_without_tools(
    model: Writer, processor: Processor, examples: Sequence[Example], images: Sequence[Image.Image], turn_tokens: int
) -> list[str]:
    """Answer in one turn, with no tools in the prompt and no way to call one.

    Args:
        model: the policy in eval mode.
        processor: the model's processor.
        examples: [B] questions.
        images: [B] decoded figures of the questions.
        turn_tokens: maximum length of a turn, in tokens.

    Returns:
        [B] texts of the turns.
    """
    prompts = encode_examples(processor, examples, images, tools=False)
    # A policy trained to call tools would call one even when none is defined, and never answer.
    suppressed = (*SUPPRESSED_TOKENS, CALL_TOKEN)
    turns = generate_turn(model, processor, prompts, max_tokens=turn_tokens, suppressed=suppressed)
    return [turn_text(processor.tokenizer, turn) for turn in turns]
