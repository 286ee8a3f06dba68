"""Partition a prompt's tokens into the blocks whose attribution is compared.

P is plain text (a system message, the figure's context), R the request, I the image tokens, T the tool
definitions. Tokens that the chat template adds belong to none: one ``<|im_start|>`` on the path would
otherwise take several nats (paper, section on block types; the exclusion is ours, *assumed*). The finer
partitions are ours too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from iapo.config_method import Partition
from iapo.processor import IMAGE_TOKEN
from iapo.prompts import Message
from iapo.types import Figure

P, R, I, T = range(4)
NO_BLOCK = -1

R_LABEL, P_ASKED, P_OTHER, I_ASKED, I_OTHER = range(4, 9)
"""Blocks of the partition ``labels`` beside the rest of P, R, I and T: a figure's label in the request; in the
plain text, labels that the request names and those that it does not; image tokens in the boxes of either."""

Span = tuple[int, int, int]
"""First character, one past the last, block."""

_TOOL_SECTION = re.compile(r"<tools>(?!</tools>)(.*?)</tools>", re.DOTALL)


def block_ids(
    processor: Any,
    messages: Sequence[Message],
    tools: Sequence[Any],
    input_ids: Sequence[int],
    *,
    partition: Partition = "prit",
    figure: Figure | None = None,
) -> list[int]:
    """The block of every prompt token.

    Args:
        processor: the model's processor, with a fast tokenizer and the template that made ``input_ids``.
        messages: the prompt. The last text part of its last user message is the request.
        tools: the tools it was rendered with, functions or JSON schemas.
        input_ids: [L] token ids with image placeholders already expanded.
        partition: ``prit``: four blocks. ``items``: 0 P, 1 R, then one per image, then one per tool.
            ``labels``: 0 to 3 as in ``prit`` and five more that hold the figure's labels.
        figure: for ``labels``: what the first image shows.

    Returns:
        [L] of 0 (P), 1 (R), 2 (I), 3 (T), those of the finer partition, or -1 (template).

    Raises:
        ValueError: when ``input_ids`` are not this prompt's, or the partition lacks what it needs.
    """
    text = processor.apply_chat_template(
        list(messages), tools=list(tools) or None, add_generation_prompt=True, tokenize=False
    )
    spans = _content_spans(text, messages)
    encoded = processor.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    image_id = processor.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    if partition == "items":
        spans = list(_item_spans(text, spans, len(tools), text.count(IMAGE_TOKEN)))
    elif partition == "labels":
        spans = list(_label_spans(text, spans, _figure_labels(figure)))
    compact = [
        (token, I if token == image_id else _block_at(start, spans))
        for token, (start, _) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
    ]
    blocks, images = _expand_images(compact, input_ids, image_id)
    if partition == "items":
        for i, (start, stop) in enumerate(images):
            blocks[start:stop] = [I + i] * (stop - start)
    if partition == "labels" and images and figure is not None:
        request = next(text[start:stop] for start, stop, block in _content_spans(text, messages) if block == R)
        start, stop = images[0]
        blocks[start:stop] = _boxed(processor, messages, figure, request, stop - start)
    return blocks


def _item_spans(text: str, spans: Sequence[Span], tools: int, images: int) -> Iterator[Span]:
    """One block per tool definition: a line each, or a word each where they stand on one line."""
    for start, stop, block in spans:
        if block != T:
            yield start, stop, block
            continue
        section = text[start:stop]
        pattern = r"[^\n]*\S[^\n]*" if "\n" in section.strip() else r"\S+"
        pieces = [match.span() for match in re.finditer(pattern, section)]
        if len(pieces) != tools:
            raise ValueError(f"the template shows {len(pieces)} tool definitions, expected {tools}, one a line")
        for i, (first, end) in enumerate(pieces):
            yield start + first, start + end, I + images + i


def _label_spans(text: str, spans: Sequence[Span], labels: Sequence[str]) -> Iterator[Span]:
    """Text spans with the labels cut out of P and R."""
    request = next(text[start:stop] for start, stop, block in spans if block == R)
    pattern = re.compile("|".join(map(_whole, sorted(labels, key=len, reverse=True))))
    for start, stop, block in spans:
        cuts = [match.span() for match in pattern.finditer(text, start, stop)] if block in (P, R) else []
        for (_, before), (first, end) in pairwise([(start, start), *cuts, (stop, stop)]):
            if first > before:
                yield before, first, block
            if end > first:
                asked = re.search(_whole(text[first:end]), request) is not None
                yield first, end, R_LABEL if block == R else P_ASKED if asked else P_OTHER


def _whole(label: str) -> str:
    return rf"(?<!\w){re.escape(label)}(?!\w)"


def _figure_labels(figure: Figure | None) -> list[str]:
    if figure is None or not any(figure.boxes.values()):
        raise ValueError("found no figure with labels; the partition 'labels' needs one (column `figure`)")
    return [label for boxes in figure.boxes.values() for label in boxes]


def _boxed(processor: Any, messages: Sequence[Message], figure: Figure, request: str, tokens: int) -> list[int]:
    """The block of each token of the figure's image: by the box that holds the token's centre."""
    image = next(part["image"] for message in messages for part in message["content"] if part["type"] == "image")
    merge = processor.image_processor.merge_size
    _, height, width = processor.image_processor(images=[image], return_tensors="pt")["image_grid_thw"][0].tolist()
    rows, columns = height // merge, width // merge
    if rows * columns != tokens:
        raise ValueError(f"the prompt's first image has {tokens} tokens, the figure's {rows * columns}")
    blocks = [I] * tokens
    for boxes in figure.boxes.values():
        for label, (left, top, right, bottom) in boxes.items():
            block = I_ASKED if re.search(_whole(label), request) else I_OTHER
            for i in range(tokens):
                y, x = (i // columns + 0.5) / rows * image.height, (i % columns + 0.5) / columns * image.width
                if left <= x < right and top <= y < bottom and blocks[i] != I_ASKED:
                    blocks[i] = block
    return blocks


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


def _expand_images(
    compact: Sequence[tuple[int, int]], input_ids: Sequence[int], image_id: int
) -> tuple[list[int], list[tuple[int, int]]]:
    """Repeat each placeholder's block over the image tokens that the processor put in its place.

    Returns:
        The blocks, and where each image's tokens start and end.
    """
    blocks: list[int] = []
    images: list[tuple[int, int]] = []
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
        if token == image_id:
            images.append((position, len(blocks)))
    if len(blocks) != len(input_ids):
        raise ValueError(
            f"the prompt has {len(input_ids)} tokens, the template renders {len(blocks)}: "
            "partition a prompt with the processor, messages and tools that made it"
        )
    return blocks, images
