"""Two-turn rollouts of VTool-R1's released weights, under the prompt that they were trained with.

Its prompt describes the tools as Python functions and the policy writes its calls as a block of Python, which
:mod:`iapo.tools.legacy_calls` reads and nothing runs. The second turn is a new prompt as in VTool-R1's code: both
images, the same text, and the first turn up to the end of its block as the assistant's. Where no image comes of a
block, the first turn's answer counts, as there.

The wording of the request and of the observation is that of VTool-R1's data scripts and trainer. Differences: decoding
is greedy like every row's, the images are edited by this project's tools, a block may use the chart tools as well as
the table tools that the prompt describes, and sub-figures, which VTool-R1 was not trained on, have no labels to name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from iapo.data.prompts import Message, open_image
from iapo.models.interfaces import Processor
from iapo.rollout.encoding import EncodedPrompt, images_of
from iapo.rollout.generation import Writer, generate_turn, generate_where, turn_text
from iapo.rollout.original_image_control import answer_with_original, answer_without_tools
from iapo.rollout.two_turn import Rollout, with_control_answers
from iapo.tools.drawing import apply
from iapo.tools.legacy_calls import BLOCK_OPENING, for_figure, parse_legacy_turn
from iapo.types import Example, Family, ToolCall

PLACEHOLDER = "{{ content | trim }}"
"""What VTool-R1's template has in the place of the request; it has no other variable."""

_CHARTS = ("h_bar", "v_bar")
_FENCE = "```"
_OBSERVATION = (
    "\nOBSERVATION: Execution success. The output is as follows:"
    "\n<the image outputs of the code is added as the second image>"
)
_TABLE_BOXES = (
    "columns_bbox, where keys are column headers and values are column bounding boxes. rows_bbox, where keys row "
    "headers and values are row bounding boxes. The columns in the image are: {columns}. The rows in the image start "
    "with: {rows}."
)
_CHART_BOXES = (
    "x_values_bbox, storing x values and coordinates. y_values_bbox, storing x values and coordinates. The x values in "
    "the image are: {x_values}. The y values in the image are: {y_values}."
)


@dataclass(frozen=True)
class _FirstTurn:
    """The outcome of a first turn."""

    text: str
    calls: list[ToolCall]
    """The well-formed calls."""
    edited: Image.Image | None
    """The displayed image; None where the block has none or a call could not be carried out."""


def check_template(template: str) -> None:
    """Check that a template has one place for the request.

    Raises:
        ValueError: if it has none or several.
    """
    found = template.count(PLACEHOLDER)
    if found != 1:
        raise ValueError(f"the prompt's template: found {PLACEHOLDER!r} {found} times, expected once; use VTool-R1's")


def legacy_prompt(example: Example, template: str) -> str:
    """Return the text of the user's turn.

    Args:
        example: the question and its figure.
        template: VTool-R1's, with one :data:`PLACEHOLDER`.
    """

    def labels(family: Family) -> list[str]:
        return list(example.figure.boxes.get(family, {}))

    if example.figure.kind in _CHARTS:
        boxes = _CHART_BOXES.format(x_values=labels("x_values"), y_values=labels("y_values"))
    else:
        boxes = _TABLE_BOXES.format(columns=labels("columns"), rows=labels("rows"))
    request = (
        f"# USER REQUEST #: {example.request}\n"
        f"# USER Bounding Box Info: {boxes}\n"
        "# USER IMAGE stored in image_1, as PIL image."
    )
    return template.strip().replace(PLACEHOLDER, request)


def roll_out_legacy(
    model: Writer,
    processor: Processor,
    examples: Sequence[Example],
    *,
    template: str,
    turn_tokens: int,
    image_help: bool = False,
) -> list[Rollout]:
    """Answer a batch of questions greedily, with at most one block of calls each.

    Args:
        model: VTool-R1's weights in eval mode.
        processor: their processor, with its own chat template.
        examples: [B] questions.
        template: VTool-R1's prompt, with one :data:`PLACEHOLDER`.
        turn_tokens: maximum length of a turn, in tokens.
        image_help: whether to add the control answers, with the original image and without tools.

    Returns:
        [B] rollouts.
    """
    images = [open_image(example) for example in examples]
    texts = [legacy_prompt(example, template) for example in examples]
    prompts = [
        _encode(processor, [user_message(_first_text(text, example), image)])
        for text, example, image in zip(texts, examples, images, strict=True)
    ]
    first_ids = generate_turn(model, processor, prompts, max_tokens=turn_tokens)
    first = [
        _carry_out(turn_text(processor.tokenizer, ids), example, image)
        for ids, example, image in zip(first_ids, examples, images, strict=True)
    ]
    continued = {
        i: _encode(processor, [user_message(texts[i], images[i], turn.edited), _observed(turn.text)])
        for i, turn in enumerate(first)
        if turn.edited is not None
    }
    second_ids = generate_where(model, processor, continued, turn_tokens)
    rollouts = [_collect(processor, turn, first_ids[i], second_ids.get(i)) for i, turn in enumerate(first)]
    if not image_help:
        return rollouts
    return with_control_answers(
        rollouts,
        answer_with_original(model, processor, prompts, continued, turn_tokens),
        answer_without_tools(model, processor, examples, images, turn_tokens),
    )


def _first_text(text: str, example: Example) -> str:
    """Return the text as the first turn's prompt has it: VTool-R1's script for charts puts a space before it."""
    return f" {text}" if example.figure.kind in _CHARTS else text


def user_message(text: str, *images: Image.Image) -> Message:
    """Return the user's turn: the images, then the text."""
    return {
        "role": "user",
        "content": [*({"type": "image", "image": image} for image in images), {"type": "text", "text": text}],
    }


def _observed(text: str) -> Message:
    """Return a first turn up to its last fence, with the observation: what a policy writes on, it has made up."""
    written = text[: text.rfind(_FENCE) + len(_FENCE)]
    return {"role": "assistant", "content": [{"type": "text", "text": written + _OBSERVATION}]}


def _encode(processor: Processor, messages: Sequence[Message]) -> EncodedPrompt:
    """Render a conversation with the weights' own chat template and tokenize it."""
    encoded = processor.apply_chat_template(
        [list(messages)], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    return EncodedPrompt(
        encoded["input_ids"][0].tolist(), encoded["pixel_values"], encoded["image_grid_thw"], images_of(messages)
    )


def _carry_out(text: str, example: Example, image: Image.Image) -> _FirstTurn:
    """Parse a first turn and carry out its calls."""
    turn = parse_legacy_turn(text)
    if BLOCK_OPENING not in text or turn.error is not None:
        return _FirstTurn(text, [], None)
    calls = [for_figure(call, example.figure.kind) for call in turn.calls]
    result = apply(image, example.figure, calls)
    return _FirstTurn(text, calls, None if result.error else result.image)


def _collect(processor: Processor, turn: _FirstTurn, first: list[int], second: list[int] | None) -> Rollout:
    tokenizer = processor.tokenizer
    texts = [turn.text]
    messages: list[Message] = [{"role": "assistant", "content": turn.text}]
    if second is not None:
        texts.append(turn_text(tokenizer, second))
        observation = [{"type": "image", "image": turn.edited}, {"type": "text", "text": _OBSERVATION.strip()}]
        messages += [{"role": "tool", "content": observation}, {"role": "assistant", "content": texts[-1]}]
    turns = [first] if second is None else [first, second]
    return Rollout(
        messages=messages,
        texts=texts,
        calls=turn.calls,
        called=BLOCK_OPENING in turn.text,
        call_ok=bool(turn.calls) and turn.edited is not None,
        truncated=any(ids[-1:] != [tokenizer.eos_token_id] for ids in turns),
    )
