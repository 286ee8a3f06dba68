"""Questions about drawn figures, their prompts and the calls of a policy, in the shape of ReFocus's."""

from __future__ import annotations

import io
import random
from dataclasses import replace

from PIL import Image, ImageDraw

from benchmarks.gpu_check.scale import Scale
from iapo.attribution.batch import example_inputs
from iapo.data.prompts import prompt_messages
from iapo.models.interfaces import Processor
from iapo.rollout.encoding import EncodedPrompt, encode_prompt
from iapo.rollout.turns import ToolTurn, turn_ids
from iapo.tools.parsing import render_call
from iapo.types import Box, Example, Figure, ToolCall

_ROWS, _COLUMNS = 12, 8
ANSWER = "67"
"""To every question."""


def question(number: int, scale: Scale) -> Example:
    """Return a question about a table, each with a figure of its own.

    Args:
        number: which one.
        scale: size of the figure.
    """
    width, height = scale.image_pixels
    rows: dict[str, Box] = {
        f"Row {i}": (0, height * i // _ROWS, width, height * (i + 1) // _ROWS) for i in range(_ROWS)
    }
    columns: dict[str, Box] = {
        f"Column {i}": (width * i // _COLUMNS, 0, width * (i + 1) // _COLUMNS, height) for i in range(_COLUMNS)
    }
    figure = Figure(f"table {number}", "table", {"rows": rows, "columns": columns})
    return Example(
        example_id=f"question {number}",
        test_set="vwtq",
        split="train",
        figure=figure,
        image_png=_drawn(rows, columns, number),
        context=f"A table with the labels {', '.join([*rows, *columns])}.",
        request="What is in the fourth row and the second column?",
        answer=ANSWER,
        metric="relaxed",
        focus_labels=("Row 3",),
    )


def _drawn(rows: dict[str, Box], columns: dict[str, Box], seed: int) -> bytes:
    drawn = random.Random(seed)
    width, height = next(iter(rows.values()))[2], next(iter(columns.values()))[3]
    image = Image.new("RGB", (width, height), "white")
    pencil = ImageDraw.Draw(image)
    for _, top, _, bottom in rows.values():
        for left, _, right, _ in columns.values():
            shade = tuple(drawn.randrange(256) for _ in range(3))
            pencil.rectangle((left + 2, top + 2, right - 2, bottom - 2), fill=shade)
    png = io.BytesIO()
    image.save(png, "png")
    return png.getvalue()


def long_question(number: int, scale: Scale, processor: Processor) -> Example:
    """Return a question whose prompt has the scale's length, made up with plain text.

    Args:
        number: which one.
        scale: length of the prompt.
        processor: counts its tokens.
    """
    example = question(number, scale)
    missing = scale.prompt_tokens - len(encoded(processor, example).input_ids)
    words = " about" * max(0, missing)
    return replace(example, context=example.context + words)


def encoded(processor: Processor, example: Example) -> EncodedPrompt:
    """Return a question's prompt with the tools of its figure."""
    return encode_prompt(processor, prompt_messages(example), example.figure.kind)


def called_turns(processor: Processor, example: Example, count: int) -> list[ToolTurn]:
    """Return distinct calls on one prompt.

    Args:
        processor: of the model.
        example: the question.
        count: of calls.
    """
    inputs = example_inputs(processor, example, encoded(processor, example))
    turns = []
    for i in range(count):
        call = call_on(example, i)
        text = render_call(call)
        turns.append(ToolTurn(inputs, turn_ids(processor.tokenizer, text), text, [call]))
    return turns


def call_on(example: Example, number: int) -> ToolCall:
    """Return one of a figure's right calls: first each label of the rows with one mode, then with the next."""
    labels = list(example.figure.boxes["rows"])
    mode = ("mask", "draw", "highlight")[number // len(labels) % 3]
    return ToolCall(f"focus_on_rows_with_{mode}", (labels[number % len(labels)],))
