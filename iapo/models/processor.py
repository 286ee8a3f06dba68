"""The processor of the tiny models: a word-level tokenizer, a short chat template and Qwen2-VL's image processor.

The syntax is Qwen's (Hermes tool calls in JSON, ``<|im_start|>`` turns, ``<|image_pad|>`` expanded to one token per
merged 28 × 28 pixel cell), so whatever runs on a tiny model runs on a pretrained Qwen2.5-VL. Only the vocabulary is
small: tool names and fragments of JSON are single tokens, so that a call takes about eight.
"""

from __future__ import annotations

import re

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
)
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor
from trl.chat_template_utils import qwen3_template

from iapo.config.mini_world import DataConfig
from iapo.data.mini_world.vocabulary import words
from iapo.data.prompts import ANSWER_PREFIX
from iapo.tools.messages import read_turns
from iapo.tools.registry import TOOLS

IMAGE_TOKEN = "<|image_pad|>"
"""The placeholder that stands once for every merged patch of an image."""

SUPPRESSED_TOKENS = (IMAGE_TOKEN, "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
"""Tokens that no policy may sample: with an image token in a completion, TRL drops the batch's pixels."""

_PATCH = {"patch_size": 14, "merge_size": 2, "temporal_patch_size": 2}
_CELL_PIXELS = 28 * 28
"""Pixels that one image token stands for."""
_MAX_CELLS = 64
"""Image tokens of the largest image; larger ones are scaled down."""

_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *SUPPRESSED_TOKENS)
_TAGS = ("<tool_call>", "</tool_call>", "<tools>", "</tools>")

CHAT_TEMPLATE = """\
{%- if tools %}<|im_start|>system <tools>\
{% for tool in tools %} {{ (tool.function if tool.function is defined else tool).name }}{% endfor %}\
 </tools><|im_end|>{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}\
{% if message.content is string %} {{ message.content }}\
{% elif message.content %}{% for part in message.content %}\
{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %} {{ part.text }}{% endif %}\
{% endfor %}{% endif %}\
{% if message.tool_calls %}{% for call in message.tool_calls %}<tool_call>{"name": "\
{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}</tool_call>\
{% endfor %}{% endif %}<|im_end|>{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant{% endif %}"""
"""A short, prefix-preserving template with every part of Qwen's: tools in the system turn, images in user and tool
turns, tool calls after the assistant's text."""


def _vocabulary(data: DataConfig) -> list[str]:
    parameters = dict.fromkeys(tool.parameter for tool in TOOLS.values())
    openings = [f'", "arguments": {{"{parameter}": ["' for parameter in parameters]
    json_pieces = ['{"name": "', *openings, '", "', '"]}}']
    turns = ["system", "user", "assistant", "tool", "error", ANSWER_PREFIX]
    return list(dict.fromkeys([*json_pieces, *TOOLS, *words(data), *turns]))


def _piece_pattern(piece: str) -> str:
    """Return a regex for a vocabulary entry that matches words only as a whole: not ``in`` inside ``within``."""
    before = r"(?<!\w)" if piece[0].isalnum() else ""
    after = r"(?!\w)" if piece[-1].isalnum() else ""
    return before + re.escape(piece) + after


def build_tokenizer(data: DataConfig) -> PreTrainedTokenizerFast:
    """Build the word-level tokenizer of the mini world. Text outside its vocabulary is dropped.

    Args:
        data: the world, whose words the vocabulary holds.

    Returns:
        A fast, left-padded tokenizer that decodes a tool call's JSON exactly.
    """
    pieces = _vocabulary(data)
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(["<unk>", *pieces])}, unk_token="<unk>"))
    longest_first = sorted(pieces, key=len, reverse=True)
    pattern = Regex("|".join(map(_piece_pattern, longest_first)))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(pattern, "removed", invert=True)
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in _SPECIAL])
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in _TAGS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token="<unk>",
        padding_side="left",
        model_max_length=1024,
    )


def build_processor(data: DataConfig | None = None) -> Qwen2_5_VLProcessor:
    """Build the processor of the tiny models.

    Args:
        data: the world, whose words the vocabulary holds; None for the default's.

    Returns:
        The tokenizer, chat template and image processor in one object, ready for ``save_pretrained``.
    """
    tokenizer = build_tokenizer(data or DataConfig())
    tokenizer.chat_template = CHAT_TEMPLATE
    set_response_template(tokenizer)
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(
            size={"shortest_edge": _CELL_PIXELS, "longest_edge": _CELL_PIXELS * _MAX_CELLS},
            image_mean=[0.5] * 3,
            image_std=[0.5] * 3,
            **_PATCH,
        ),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(**_PATCH),
        chat_template=CHAT_TEMPLATE,
    )


def set_response_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Tell TRL how to parse an assistant turn: Hermes tool calls, after the turn opening of our chat template.

    Args:
        tokenizer: gets the attribute ``response_template``, which TRL asks for, and our reader of turns.
    """
    tokenizer.response_template = {**qwen3_template, "start_anchor": "<|im_start|>assistant"}
    read_turns(tokenizer)
