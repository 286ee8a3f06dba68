"""The partition of a prompt's tokens into the blocks whose attribution is compared.

P is plain text (a system message, the figure's context), R the request, I the image tokens, T the tool
definitions (paper, section on block types). Tokens that the chat template adds belong to no block: a single
``<|im_start|>`` on the path would otherwise receive several nats. That exclusion is our assumption, and the finer
partitions are ours too.

Shapes: L prompt tokens.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import cast

from iapo.config.method import Partition
from iapo.data.prompts import Message
from iapo.models.interfaces import Processor
from iapo.models.processor import IMAGE_TOKEN
from iapo.types import Figure

P, R, I, T = range(4)
"""Block ids, in the order of :data:`iapo.types.BLOCKS`."""


NO_BLOCK = -1
"""Block id of the chat template's tokens, of the turn and of padding."""


R_LABEL, P_ASKED, P_OTHER, I_ASKED, I_OTHER = range(4, 9)
"""Further block ids of the partition ``labels``, cut out of R, P and I: the figure's labels in the request; labels in
the plain text that the request names, and the other labels; image tokens in the box of a label that the request names,
and in the boxes of the other labels."""


Span = tuple[int, int, int]
"""A stretch of the rendered prompt: first character, one past the last, block id."""


_TOOL_SECTION = re.compile(r"<tools>(?!</tools>)(.*?)</tools>", re.DOTALL)


def block_ids(
    processor: Processor,
    messages: Sequence[Message],
    tools: Sequence[Callable[..., object] | Mapping[str, object]],
    input_ids: Sequence[int],
    *,
    partition: Partition = "four_block",
    figure: Figure | None = None,
) -> list[int]:
    """Return the block id of every prompt token.

    The prompt is rendered again as text, in which the blocks are found; the tokens' offsets map them back to tokens.

    Args:
        processor: the model's, with a fast tokenizer and the chat template that rendered ``input_ids``.
        messages: the prompt. The last text part of its last user message is the request.
        tools: the tools it was rendered with, functions or JSON schemas.
        input_ids: [L] token ids with image placeholders already expanded.
        partition: ``four_block``: P, R, I, T. ``items``: 0 P, 1 R, then one block per image, then one per tool.
            ``labels``: 0 to 3 as in ``four_block`` and five more that hold the figure's labels.
        figure: what the first image shows; required by ``labels``.

    Returns:
        [L] of 0 (P), 1 (R), 2 (I), 3 (T), those of the finer partition, or -1 (template).

    Raises:
        ValueError: when ``input_ids`` were not rendered from this prompt, or the partition lacks what it needs.
    """
    text = processor.apply_chat_template(
        list(messages), tools=list(tools) or None, add_generation_prompt=True, tokenize=False
    )
    spans = _content_spans(text, messages)
    encoded = processor.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    image_id = cast(int, processor.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN))
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
        blocks[start:stop] = _image_label_blocks(processor, messages, figure, request, stop - start)
    return blocks


def _item_spans(text: str, spans: Sequence[Span], tools: int, images: int) -> Iterator[Span]:
    """Give each tool definition its own block: a definition is one line, or one word where all are on one line."""
    for start, stop, block in spans:
        if block != T:
            yield start, stop, block
            continue
        section = text[start:stop]
        pattern = r"[^\n]*\S[^\n]*" if "\n" in section.strip() else r"\S+"
        pieces = [match.span() for match in re.finditer(pattern, section)]
        if len(pieces) != tools:
            raise ValueError(f"the template shows {len(pieces)} tool definitions, expected {tools}, one a line")
        for i, (piece_start, piece_stop) in enumerate(pieces):
            yield start + piece_start, start + piece_stop, I + images + i


def _label_spans(text: str, spans: Sequence[Span], labels: Sequence[str]) -> Iterator[Span]:
    """Cut the figure's labels out of the spans of P and R."""
    request = next(text[start:stop] for start, stop, block in spans if block == R)
    # Longest first, so that a label that contains another one wins.
    pattern = re.compile("|".join(map(_whole_word, sorted(labels, key=len, reverse=True))))
    for start, stop, block in spans:
        cuts = [match.span() for match in pattern.finditer(text, start, stop)] if block in (P, R) else []
        for (_, previous_stop), (label_start, label_stop) in pairwise([(start, start), *cuts, (stop, stop)]):
            if label_start > previous_stop:
                yield previous_stop, label_start, block
            if label_stop > label_start:
                in_request = re.search(_whole_word(text[label_start:label_stop]), request) is not None
                yield label_start, label_stop, R_LABEL if block == R else P_ASKED if in_request else P_OTHER


def _whole_word(label: str) -> str:
    return rf"(?<!\w){re.escape(label)}(?!\w)"


def _figure_labels(figure: Figure | None) -> list[str]:
    if figure is None or not any(figure.boxes.values()):
        raise ValueError("found no figure with labels; the partition 'labels' needs one (column `figure`)")
    return [label for boxes in figure.boxes.values() for label in boxes]


def _image_label_blocks(
    processor: Processor, messages: Sequence[Message], figure: Figure, request: str, tokens: int
) -> list[int]:
    """Return the block of each token of the figure's image: that of the label whose box holds the token's centre."""
    image = next(part["image"] for message in messages for part in message["content"] if part["type"] == "image")
    merge = processor.image_processor.merge_size
    _, height, width = processor.image_processor(images=[image], return_tensors="pt")["image_grid_thw"][0].tolist()
    rows, columns = height // merge, width // merge
    if rows * columns != tokens:
        raise ValueError(f"the prompt's first image has {tokens} tokens, the figure's {rows * columns}")
    blocks = [I] * tokens
    for boxes in figure.boxes.values():
        for label, (left, top, right, bottom) in boxes.items():
            block = I_ASKED if re.search(_whole_word(label), request) else I_OTHER
            for i in range(tokens):
                y, x = (i // columns + 0.5) / rows * image.height, (i % columns + 0.5) / columns * image.width
                if left <= x < right and top <= y < bottom and blocks[i] != I_ASKED:
                    blocks[i] = block
    return blocks


def _content_spans(text: str, messages: Sequence[Message]) -> list[Span]:
    """Return the character spans of the blocks P, R and T, in order; all text between them is template."""
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
    """Repeat each image placeholder's block over the image tokens that the processor put in its place.

    Args:
        compact: token id and block of each token of the rendered text, one placeholder per image.
        input_ids: [L] token ids of the prompt, placeholders expanded.
        image_id: the placeholder's token id.

    Returns:
        The blocks [L], and where each image's tokens start and end.
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
