"""Imperfect demonstrations for the cold start, drawn from training questions.

Unlike usual demonstrations, most of them focus on the wrong label. Such a demonstration keeps the call and the answer
and rewrites the *request* to ask for another label, because the data has an answer only for the annotated label. The
answer therefore stays correct for what the edited figure shows.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from PIL import Image

from iapo.config.mini_world import DemonstrationConfig
from iapo.data.mini_world.figures import CELL, is_smudged
from iapo.data.mini_world.hints import draw_hint, hint_of, with_hint
from iapo.data.prompts import Message, answer_text, open_image, prompt_messages
from iapo.data.store import figure_to_json
from iapo.rollout.environment import ENVIRONMENTS, FunctionCall, answer_tool_calls
from iapo.tools.parsing import render_call
from iapo.tools.registry import TOOLS, tools_for
from iapo.types import Box, Example, Family, FigureKind, ToolCall

MODES = ("mask", "draw", "highlight")

_UNKNOWN_MODE = "zoom"
"""No tool edits so, but it is what a model might expect."""


@dataclass(frozen=True)
class Demonstration:
    """A complete conversation to imitate, and the tools that its prompt defines."""

    messages: list[Message]
    kind: FigureKind | None
    """Figure kind, which decides the tools; None defines none."""


class Demonstrator:
    """A source of demonstrations by index; the same index and seed always give the same demonstration."""

    def __init__(self, examples: Sequence[Example], config: DemonstrationConfig, seed: int) -> None:
        """Prepare to draw from some training questions.

        Args:
            examples: training questions, each with its annotated label.
            config: rates of tool use and of errors in the demonstrations.
            seed: seed of all draws.
        """
        self._examples = examples
        self._first_label_examples = [e for e in examples if e.focus_labels[0] == _labels(e)[0]]
        self._config = config
        self._seed = seed

    def __call__(self, index: int) -> Demonstration:
        """Draw the demonstration with this index."""
        rng = random.Random(f"{self._seed}/{index}")
        if rng.random() >= self._config.tool_rate:
            return _direct(rng.choice(self._examples))
        if rng.random() >= self._config.right_family_rate:
            return self._failing_call(rng)
        return self._valid_call(rng)

    def _valid_call(self, rng: random.Random) -> Demonstration:
        """Draw a call that the figure supports, on the requested label or another, and the answer it shows."""
        right = rng.random() < self._config.right_label_rate
        example = rng.choice(self._examples) if right else self._misread(rng)
        call = self._tool_call(example, _family(example), rng)
        if hint_of(example) is not None:
            example = with_hint(example, draw_hint(rng, call.labels[0], _labels(example), self._config.hint_rate))
        return _with_tool_turn(example, call, thought(example, call, rng) if self._config.thought else "")

    def _misread(self, rng: random.Random) -> Example:
        """Draw a question of which another label than the annotated one is asked for."""
        if rng.random() >= self._config.first_label_rate:
            source = rng.choice(self._examples)
            return _ask_for(source, rng.choice(_other_labels(source)))
        source = rng.choice(self._first_label_examples)
        return _ask_for(source, rng.choice(_other_labels(source)))

    def _failing_call(self, rng: random.Random) -> Demonstration:
        """Draw a call to a family that the figure lacks, or that lacks the label, followed by a guess."""
        source = rng.choice(self._examples)
        families = {tool.family for tool in tools_for(source.figure.kind)} - {_family(source)}
        if not families:
            return _direct(source)
        example = _ask_for(source, rng.choice(_labels(source)))
        return _with_tool_turn(example, self._tool_call(example, rng.choice(sorted(families)), rng), "")

    def _tool_call(self, example: Example, family: str, rng: random.Random) -> ToolCall:
        modes = [mode for mode in MODES if f"focus_on_{family}_with_{mode}" in TOOLS]
        weights = [self._config.mode_weights[MODES.index(mode)] for mode in modes]
        mode = rng.choices(modes, weights)[0]
        if rng.random() >= self._config.known_tool_rate:
            mode = _UNKNOWN_MODE
        return ToolCall(f"focus_on_{family}_with_{mode}", example.focus_labels)


def _family(example: Example) -> Family:
    """Return the family that the annotated label belongs to."""
    return next(f for f, boxes in example.figure.boxes.items() if example.focus_labels[0] in boxes)


def _labels(example: Example) -> list[str]:
    return list(example.figure.boxes[_family(example)])


def _other_labels(example: Example) -> list[str]:
    return [label for label in _labels(example) if label != example.focus_labels[0]]


def _ask_for(example: Example, label: str) -> Example:
    """Rewrite the request to ask for another label; answer and annotation stay."""
    return replace(example, request=example.request.replace(example.focus_labels[0], label))


def spoken_answer(example: Example) -> str:
    """Return the assistant's final turn with the gold answer."""
    if example.metric == "fact":
        return answer_text("true" if example.answer == "1" else "false")
    return answer_text(example.answer)


def _direct(example: Example) -> Demonstration:
    messages = prompt_messages(example)
    messages.append({"role": "assistant", "content": spoken_answer(example)})
    return Demonstration(messages, example.figure.kind)


def thought(example: Example, call: ToolCall, rng: random.Random) -> str:
    """Return a short thought to precede a call: where in the prompt its label is named.

    Args:
        example: the question, perhaps with a hint.
        call: the call; its first label is the one named.
        rng: chooses where several places name the label.
    """
    label = call.labels[0]
    texts = {"question": example.request, "hint": hint_of(example) or ""}
    sources = [source for source, text in texts.items() if f" {label} " in f" {text} "]
    return f"the {rng.choice(sources or ['figure'])} names {label} ."


def _with_tool_turn(example: Example, call: ToolCall, text_before: str) -> Demonstration:
    image = open_image(example)
    messages = prompt_messages(example, image)
    messages.append({"role": "assistant", "content": text_before + render_call(call)})
    messages += run_call(example, image, call)
    messages.append({"role": "assistant", "content": spoken_answer(example)})
    return Demonstration(messages, example.figure.kind)


def run_call(example: Example, image: Image.Image, call: ToolCall) -> list[Message]:
    """Carry out one call and return the tool message: the edited figure, or the error.

    Args:
        example: the question, whose figure the call is about.
        image: the figure's decoded image; not modified.
        call: the call.
    """
    environment = ENVIRONMENTS[example.figure.kind]()
    environment.reset(figure=figure_to_json(example.figure), images=[image])
    function: FunctionCall = {"name": call.name, "arguments": call.arguments}
    return answer_tool_calls(environment, [{"type": "function", "function": function}])


def calling_exercise(example: Example) -> Demonstration:
    """Return a conversation that trains calling alone: the prompt without picture and tools, the right call.

    It is a quarter as long as a demonstration. Its context names the other labels too, so that only the request tells
    which one to call.
    """
    text = [part for part in prompt_messages(example)[0]["content"] if part["type"] == "text"]
    messages: list[Message] = [
        {"role": "user", "content": text},
        {"role": "assistant", "content": render_call(_mask_call(example))},
    ]
    return Demonstration(messages, None)


class ReadingExercises:
    """A source of reading exercises by index: the request, the correctly masked figure, the answer.

    Three things without which some seeds guess the most frequent answer for hundreds of steps and never learn to read:
    only values that can be read are asked for, every answer is as frequent as any other, and of every other figure
    nothing is shown but the cells of the label, among which the value is soon found.
    """

    def __init__(self, examples: Sequence[Example], seed: int) -> None:
        """Sort the readable questions by their answers.

        Args:
            examples: training questions, each with its annotated label.
            seed: seed of all draws.
        """
        self._by_answer: dict[str, list[Example]] = {}
        for example in examples:
            if not is_smudged(open_image(example), _focus_box(example)):
                self._by_answer.setdefault(example.answer, []).append(example)
        self._answers = sorted(self._by_answer)
        self._seed = seed

    def __call__(self, index: int) -> Demonstration:
        """Draw the exercise with this index."""
        rng = random.Random(f"reading/{self._seed}/{index}")
        example = rng.choice(self._by_answer[rng.choice(self._answers)])
        edited = run_call(example, open_image(example), _mask_call(example))
        messages: list[Message] = [
            {"role": "user", "content": [{"type": "text", "text": example.request}]},
            *(edited if index % 2 else _cut_to_cells(edited, _focus_box(example))),
            {"role": "assistant", "content": spoken_answer(example)},
        ]
        return Demonstration(messages, None)


def _cut_to_cells(messages: list[Message], box: Box) -> list[Message]:
    """Cut the pictures of a tool's messages to the cells that a box touches."""
    left, top, right, bottom = (side // CELL * CELL for side in (box[0], box[1], box[2] + CELL - 1, box[3] + CELL - 1))
    return [
        message
        | {
            "content": [
                part | {"image": part["image"].crop((left, top, right, bottom))} if part["type"] == "image" else part
                for part in message["content"]
            ]
        }
        for message in messages
    ]


def _mask_call(example: Example) -> ToolCall:
    """Return the right call that leaves nothing but the annotated label in the figure."""
    return ToolCall(f"focus_on_{_family(example)}_with_mask", example.focus_labels)


def _focus_box(example: Example) -> Box:
    return example.figure.boxes[_family(example)][example.focus_labels[0]]
