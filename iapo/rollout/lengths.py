"""Lengths of the longest prompt and completion of a dataset, in tokens.

They size vLLM's context and the completion limit before a run starts, without decoding any image.
"""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from iapo.data.prompts import Message, prompt_messages, undecoded_image
from iapo.models.interfaces import Processor
from iapo.rollout.environment import tool_schemas
from iapo.rollout.two_turn import tool_suffix_ids
from iapo.types import Example


def longest_completion(processor: Processor, examples: Sequence[Example], turn_tokens: int) -> int:
    """Return the maximum length of a completion in tokens: two assistant turns and the tool message between them.

    Args:
        processor: the model's processor.
        examples: questions, at least one; the size of their figures decides the length of a tool message.
        turn_tokens: maximum length of a turn, in tokens.
    """
    tool_images = {
        (tool_schemas(example.figure.kind)[0]["function"]["name"], undecoded_image(example).size)
        for example in examples
    }
    return 2 * turn_tokens + max(
        len(tool_suffix_ids(processor, [_tool_message(name, size)])) for name, size in tool_images
    )


def _tool_message(name: str, size: tuple[int, int]) -> Message:
    """Return a tool message with a blank image: only the size of an image decides how many tokens it takes."""
    return {"role": "tool", "name": name, "content": [{"type": "image", "image": Image.new("RGB", size)}]}


def longest_prompt(processor: Processor, examples: Sequence[Example]) -> int:
    """Return the length of the longest prompt in tokens, image tokens expanded, without decoding any image.

    Args:
        processor: the model's processor.
        examples: questions, at least one.
    """
    return max(_prompt_length(processor, example) for example in examples)


def _prompt_length(processor: Processor, example: Example) -> int:
    image = undecoded_image(example)
    text = processor.apply_chat_template(
        prompt_messages(example, image), tools=list(tool_schemas(example.figure.kind)), add_generation_prompt=True
    )
    patches = processor.image_processor.get_number_of_image_patches(image.height, image.width)
    # The rendered text has a single image token in place of the whole run.
    return len(processor.tokenizer(text)["input_ids"]) - 1 + int(patches // processor.image_processor.merge_size**2)
