"""The tiny models' processor: a word-level tokenizer, a short chat template, Qwen2-VL's image processor.

The syntax is Qwen's (Hermes tool calls in JSON, ``<|im_start|>`` turns, ``<|image_pad|>`` expanded to one
token per merged 28-px cell), so that whatever runs on a tiny model runs on a pretrained Qwen2.5-VL. Only
the vocabulary is small: pieces of JSON and tool names are single tokens, and a call takes about eight.
"""

from __future__ import annotations

import re
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
)
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor
from trl.chat_template_utils import qwen3_template

from iapo.data.vocabulary import words
from iapo.prompts import ANSWER_PREFIX
from iapo.tools import TOOLS

IMAGE_TOKEN = "<|image_pad|>"
UNSAMPLED_TOKENS = (IMAGE_TOKEN, "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
"""A sampled image token would make TRL drop the batch's pixels, so no policy may emit one."""

_PATCH = {"patch_size": 14, "merge_size": 2, "temporal_patch_size": 2}
_CELL_PIXELS = 28 * 28
_MOST_CELLS = 64
_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *UNSAMPLED_TOKENS)
_TAGS = ("<tool_call>", "</tool_call>", "<tools>", "</tools>")

# Short, but prefix-preserving and with every part of Qwen's own: tools in the system turn, images inside
# user and tool turns, tool calls after the assistant's text.
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


def _vocabulary(hints: bool) -> list[str]:
    families = dict.fromkeys(tool.parameter for tool in TOOLS.values())
    openings = [f'", "arguments": {{"{parameter}": ["' for parameter in families]
    json_pieces = ['{"name": "', *openings, '", "', '"]}}']
    turns = ["system", "user", "assistant", "tool", "error", ANSWER_PREFIX]
    return list(dict.fromkeys([*json_pieces, *TOOLS, *words(hints), *turns]))


def _piece_pattern(piece: str) -> str:
    """A word matches only whole, so that ``in`` is not found inside ``within``."""
    before = r"(?<!\w)" if piece[0].isalnum() else ""
    after = r"(?!\w)" if piece[-1].isalnum() else ""
    return before + re.escape(piece) + after


def build_tokenizer(hints: bool = False) -> PreTrainedTokenizerFast:
    """The word-level tokenizer of the mini world. Text outside its vocabulary is dropped.

    Args:
        hints: whether it knows the words of the shortcut world.

    Returns:
        A fast tokenizer, left-padded, whose decoder restores a tool call's JSON to the letter.
    """
    pieces = _vocabulary(hints)
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


def build_processor(hints: bool = False) -> Qwen2_5_VLProcessor:
    """Tokenizer, template and image processor of the tiny models, ready for ``save_pretrained``.

    Args:
        hints: whether the tokenizer knows the words of the shortcut world.
    """
    tokenizer = build_tokenizer(hints)
    tokenizer.chat_template = CHAT_TEMPLATE
    set_response_template(tokenizer)
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(
            size={"shortest_edge": _CELL_PIXELS, "longest_edge": _CELL_PIXELS * _MOST_CELLS},
            image_mean=[0.5] * 3,
            image_std=[0.5] * 3,
            **_PATCH,
        ),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(**_PATCH),
        chat_template=CHAT_TEMPLATE,
    )


def set_response_template(tokenizer: Any) -> None:
    """Tell TRL how to read tool calls: Qwen's Hermes syntax, with this template's turn opening."""
    tokenizer.response_template = {**qwen3_template, "start_anchor": "<|im_start|>assistant"}
