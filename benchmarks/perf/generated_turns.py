"""A seeded generator of assistant turns that a policy should never write, and the small world they are tried in.

Most turns are nearly right: calls with one thing wrong, calls inside thoughts, calls cut off, answers in every
wrapping. The vocabulary is one token per byte, because the tiny models' cannot spell most of them.
"""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable

from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLProcessor

from iapo.models.interfaces import Processor
from iapo.models.processor import CHAT_TEMPLATE, build_processor, set_response_template
from iapo.tools.registry import TOOLS, tools_for
from iapo.types import Example, Figure, Metric

ROWS = ("Italy", "Côte d'Ivoire", "</tool_call>", "漢字 \U0001f4c8", 'a "b" \\ c')
"""Labels of the figure's rows."""

FIGURE = Figure(
    "f",
    "table",
    {
        "rows": {label: (0, 12 * i + 12, 84, 12 * i + 24) for i, label in enumerate(ROWS)},
        "columns": {"1952": (28, 0, 56, 84), "2007": (56, 0, 84, 84)},
    },
)
"""A small table with labels that need escaping."""

_SNIPPETS = (
    *("<tool_call>", "</tool_call>", "<think>", "</think>", "<|im_end|>", "<|im_start|>assistant", "<|image_pad|>"),
    *("{", "}", "[", "]", '"', "\\", ",", ":", "\\u", "\\ud83d", "null", "NaN", "-Infinity", "1e400", "0" * 50),
    *('"name": ', '"arguments": ', "FINAL ANSWER: ", "TERMINATE", "\n", " ", "\t", "\x00", "\x1c", "\u2028", "\ufeff"),
    *("Italy", "is", "I look.", "é", "e\u0301", "漢", "\U0001f4c8", "\u202e", "ﬁ", "½", "٣", "ANSWER", "**", "$"),
)
_VALUES: tuple[str, ...] = (
    *("null", "true", "NaN", "Infinity", "1e400", "1" * 4400, "-0", "3.5", '"Italy"', '""', "[]", "{}", "[[[]]]"),
    *('["\\ud83d"]', '["\\udc00\\ud83d"]', '["\\ud83d\\ude00"]', '["<\\/tool_call>"]', '["<|image_pad|>"]'),
    *('["Italy", 1]', '["Italy", null]', '[["Italy"]]', '{"rows_to_focus_on": ["Italy"]}', '["Italy"'),
    *("[" * 60 + "]" * 60, "[" * 300 + "]" * 300, "[" * 1200, '{"":' * 100 + "1" + "}" * 100, "1" * 100),
)
"""JSON, or nearly, that is no list of this figure's labels."""

_ANSWERS = (
    *("67", "67%", "1,234.5", "1e400", "9" * 400, "-inf", "NaN", "1/0", "½", "٣٤", "１２", "2007-01-05", "5 million"),
    *(
        "true",
        "not false",
        "true and false",
        "Italy||Chad",
        "||||",
        "[1, 2",
        "\\boxed{" * 40 + "7" + "}" * 40,
        "$\\frac",
    ),
    *("\\text{a}", "**Léon**", "“Big”", "(((((", "Léon (ABC)[1]", "", ".", "\n\n7", "ANSWER: FINAL ANSWER: 3"),
)
GOLDS: tuple[tuple[str, Metric], ...] = (("67", "relaxed"), ("Italy|||Chad", "exact"), ("1", "fact"))
"""Gold answers and their metrics."""


def example() -> Example:
    """Return a question about the table."""
    image = io.BytesIO()
    Image.new("RGB", (84, 84), "gray").save(image, "png")
    return Example(
        *("e", "vwtq", "test", FIGURE, image.getvalue(), "a table", "how many ?", "67", "relaxed", ("Italy",)),
    )


def byte_processor() -> Processor:
    """Return a processor like the tiny models', whose tokens are single bytes."""
    tiny = build_processor()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([token for _, token in sorted(tiny.tokenizer.added_tokens_decoder.items())])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", padding_side="left"
    )
    fast.chat_template = CHAT_TEMPLATE
    set_response_template(fast)
    processor: Processor = Qwen2_5_VLProcessor(
        image_processor=tiny.image_processor,
        tokenizer=fast,
        video_processor=tiny.video_processor,
        chat_template=CHAT_TEMPLATE,
    )
    return processor


def generated_turn(rng: random.Random) -> str:
    """Return one turn: some text, thoughts, calls and answers, often with an end or a middle missing."""
    pieces = rng.choices((_text, _call, _call, _thought, _answer), k=rng.randint(1, 4))
    turn = "".join(piece(rng) for piece in pieces)
    return _damaged(turn, rng) if rng.random() < 0.3 else turn


def generated_answer(rng: random.Random) -> str:
    """Return one final answer in some wrapping, or what merely looks like one."""
    label = rng.choice(("FINAL ANSWER: ", "**FINAL ANSWER**: ", "final answer:", "ＦＩＮＡＬ ANSWER：", "Answer: "))
    wrapping = rng.choice(("{}", "**{}**", '"{}"', "\\boxed{{{}}}", "<{}>", "[{}]", "${}$", "{} TERMINATE", "\n{}"))
    return label + wrapping.format(rng.choice(_ANSWERS) + rng.choice(("", "%", " km", "k", ".", _text(rng))))


def generated_ids(rng: random.Random, vocabulary: int) -> list[int]:
    """Return random token ids, special tokens and broken UTF-8 among them."""
    return rng.choices(range(vocabulary), k=rng.randint(1, 60))


def _text(rng: random.Random) -> str:
    return "".join(rng.choices(_SNIPPETS, k=rng.randint(0, 8)))


def _thought(rng: random.Random) -> str:
    inner = rng.choice((_text, _call, _answer))(rng)
    return "<think>" + inner + rng.choice(("</think>", "</think>", "</think>\n\n", ""))


def _answer(rng: random.Random) -> str:
    return rng.choice(("", "\n")) + generated_answer(rng)


def _call(rng: random.Random) -> str:
    body = rng.choice(_BODIES)(rng)
    closing = rng.choices(("</tool_call>", "</tool_call>\n", "", "</tool_call></tool_call>"), (8, 4, 1, 1))[0]
    return rng.choices(("<tool_call>", "<tool_call>\n", "<tool_call><tool_call>"), (8, 4, 1))[0] + body + closing


def _labels(rng: random.Random) -> str:
    known = rng.choices(ROWS, k=rng.randint(0, 2))
    labels = known + rng.choices(("Atlantis", "<|image_pad|>", "<think>", "x" * 200), k=int(rng.random() < 0.2))
    return json.dumps(labels, ensure_ascii=rng.random() < 0.5).replace("</", r"<\/")


def _sound(rng: random.Random) -> str:
    tool = rng.choice([tool for tool in tools_for("table") if tool.family == "rows"])
    return f'{{"name": "{tool.name}", "arguments": {{"{tool.parameter}": {_labels(rng)}}}}}'


def _other_tool(rng: random.Random) -> str:
    tool = rng.choice(list(TOOLS.values()))
    return f'{{"name": "{tool.name}", "arguments": {{"{tool.parameter}": {_labels(rng)}}}}}'


def _unknown_tool(rng: random.Random) -> str:
    name = rng.choice(("reset", "__init__", "_focus", "calls", "x" * 1000, "<|image_pad|>", "\\ud83d", "", "focus_on"))
    return f'{{"name": "{name}", "arguments": {{"rows_to_focus_on": {_labels(rng)}}}}}'


def _odd_value(rng: random.Random) -> str:
    key = rng.choice(("rows_to_focus_on", "labels", "self", "tool", ""))
    value = rng.choice(_VALUES)
    arguments = rng.choice((value, f'{{"{key}": {value}}}', f'{{"rows_to_focus_on": [], "{key}": {value}}}'))
    name = rng.choice(('"name": "focus_on_rows_with_mask", ', '"name": null, ', ""))
    return f'{{{name}"arguments": {arguments}}}'


def _extra_key(rng: random.Random) -> str:
    key = rng.choice(("id", "type", "name", "arguments", "n\\u0061me", ""))
    extra = f'"{key}": {rng.choice(_VALUES)}'
    sound = _sound(rng)
    return rng.choice((f"{{{extra}, {sound[1:]}", f"{sound[:-1]}, {extra}}}"))


def _no_object(rng: random.Random) -> str:
    return rng.choice((*_VALUES, _text(rng), "", f"[{_sound(rng)}]", _sound(rng) * 2, _sound(rng).replace('"', "'")))


_BODIES: tuple[Callable[[random.Random], str], ...] = (
    *(_sound, _sound, _sound, _other_tool, _unknown_tool, _odd_value, _extra_key, _no_object),
)


def _damaged(text: str, rng: random.Random) -> str:
    """Cut a text, or drop, repeat or insert something in it."""
    i, j = sorted(rng.choices(range(len(text) + 1), k=2))
    return rng.choice((text[:i], text[i:], text[:i] + text[j:], text[:j] + text[i:], text[:i] + _text(rng) + text[i:]))
