"""Partition a prompt's tokens into the blocks whose attribution is compared.

P is plain text (a system message, the figure's context), R the request, I the image tokens, T the tool
definitions. Tokens that the chat template adds belong to none: one ``<|im_start|>`` on the path would
otherwise take several nats (paper, section on block types; the exclusion is ours, *assumed*).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from iapo.processor import IMAGE_TOKEN
from iapo.prompts import Message

P, R, I, T = range(4)
NO_BLOCK = -1

Span = tuple[int, int, int]
"""First character, one past the last, block."""

_TOOL_SECTION = re.compile(r"<tools>(?!</tools>)(.*?)</tools>", re.DOTALL)


def block_ids(
    processor: Any,
    messages: Sequence[Message],
    tools: Sequence[Any],
    input_ids: Sequence[int],
) -> list[int]:
    """The block of every prompt token.

    Args:
        processor: the model's processor, with a fast tokenizer and the template that made ``input_ids``.
        messages: the prompt. The last text part of its last user message is the request.
        tools: the tools it was rendered with, functions or JSON schemas.
        input_ids: [L] token ids with image placeholders already expanded.

    Returns:
        [L] of 0 (P), 1 (R), 2 (I), 3 (T) or -1 (template).

    Raises:
        ValueError: when ``input_ids`` are not this prompt's.
    """
    text = processor.apply_chat_template(
        list(messages), tools=list(tools) or None, add_generation_prompt=True, tokenize=False
    )
    spans = _content_spans(text, messages)
    encoded = processor.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    image_id = processor.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    compact = [
        (token, I if token == image_id else _block_at(start, spans))
        for token, (start, _) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
    ]
    return _expand_images(compact, input_ids, image_id)


def _content_spans(text: str, messages: Sequence[Message]) -> list[Span]:
    """Character spans of everything that is not template, in order."""
    spans: list[Span] = []
    cursor = 0
    last_user = max(i for i, message in enumerate(messages) if message["role"] == "user")
    first_user_turn = text.index("<|im_start|>user")
    if tools := _TOOL_SECTION.search(text, 0, first_user_turn):
        spans.append((tools.start(1), tools.end(1), T))
    for i, message in enumerate(messages):
        cursor = text.index(f"<|im_start|>{message['role']}", cursor)
        texts = _text_parts(message)
        for j, part in enumerate(texts):
            start = text.index(part, cursor)
            cursor = start + len(part)
            is_request = i == last_user and j == len(texts) - 1
            spans.append((start, cursor, R if is_request else P))
    return sorted(spans)


def _text_parts(message: Message) -> list[str]:
    content = message["content"]
    if isinstance(content, str):
        return [content]
    return [part["text"] for part in content if part["type"] == "text"]


def _block_at(position: int, spans: Sequence[Span]) -> int:
    return next((block for start, end, block in spans if start <= position < end), NO_BLOCK)


def _expand_images(compact: Sequence[tuple[int, int]], input_ids: Sequence[int], image_id: int) -> list[int]:
    """Repeat each placeholder's block over the image tokens that the processor put in its place."""
    blocks: list[int] = []
    for token, block in compact:
        position = len(blocks)
        if position >= len(input_ids) or input_ids[position] != token:
            raise ValueError(
                f"token {position} of the prompt is "
                f"{input_ids[position] if position < len(input_ids) else 'missing'}, the template renders {token}: "
                "partition a prompt with the processor, messages and tools that made it"
            )
        blocks.append(block)
        while token == image_id and len(blocks) < len(input_ids) and input_ids[len(blocks)] == image_id:
            blocks.append(I)
    if len(blocks) != len(input_ids):
        raise ValueError(
            f"the prompt has {len(input_ids)} tokens, the template renders {len(blocks)}: "
            "partition a prompt with the processor, messages and tools that made it"
        )
    return blocks
