"""Imperfect demonstrations: what the cold start imitates before reinforcement learning.

Departure from the usual practice, on purpose: most demonstrations focus on the wrong label. Where one
errs, its *request* is rewritten to ask for another label, since the data holds the answer only for the
label it was asked about; the answer read from the edited figure is then right for what is in focus.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from PIL import Image

from iapo.config_world import DemonstrationConfig
from iapo.data.hints import draw_hint, hint_of, with_hint
from iapo.data.store import figure_to_json
from iapo.env import ENVIRONMENTS, answer_tool_calls
from iapo.prompts import Message, answer_text, open_image, prompt_messages
from iapo.tools import TOOLS, render_call, tools_for
from iapo.types import Example, FigureKind, ToolCall

MODES = ("mask", "draw", "highlight")


@dataclass(frozen=True)
class Demonstration:
    """A whole conversation and the tools its prompt shows."""

    messages: list[Message]
    kind: FigureKind | None
    """Figure kind, which decides the tools; None shows no tools."""


class Demonstrator:
    """Draws demonstrations from training examples, each a function of its index alone."""

    def __init__(self, examples: Sequence[Example], config: DemonstrationConfig, seed: int) -> None:
        """
        Args:
            examples: training questions, each with its annotated label.
            config: how good the demonstrations are.
            seed: of all draws.
        """
        self._examples = examples
        self._first_label = [e for e in examples if e.focus_labels[0] == _labels(e)[0]]
        self._config = config
        self._seed = seed

    def __call__(self, index: int) -> Demonstration:
        """The demonstration number ``index``."""
        rng = random.Random(f"{self._seed}/{index}")
        if rng.random() >= self._config.tool_rate:
            return _direct(rng.choice(self._examples))
        if rng.random() >= self._config.right_family_rate:
            return self._failed_call(rng)
        return self._call(rng)

    def _call(self, rng: random.Random) -> Demonstration:
        """A call that fits the figure, on the right label or not, and what the figure then says."""
        if rng.random() < self._config.right_label_rate:
            example = rng.choice(self._examples)
        else:
            first = rng.random() < self._config.first_label_rate
            source = rng.choice(self._first_label if first else self._examples)
            example = _ask_for(source, rng.choice(_other_labels(source)))
        call = self._tool_call(example, _family(example), rng)
        if hint_of(example) is not None:
            example = with_hint(example, draw_hint(rng, call.labels[0], _labels(example), self._config.hint_rate))
        return _with_tool_turn(example, call, thought(example, call, rng) if self._config.thought else "")

    def _failed_call(self, rng: random.Random) -> Demonstration:
        """A call for a family that the figure lacks, or lacks this label in, and a guess."""
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
        return ToolCall(f"focus_on_{family}_with_{mode}", example.focus_labels)


def _family(example: Example) -> str:
    """The family whose labels hold the annotated one."""
    return next(f for f, boxes in example.figure.boxes.items() if example.focus_labels[0] in boxes)


def _labels(example: Example) -> list[str]:
    return list(example.figure.boxes[_family(example)])  # type: ignore[index]


def _other_labels(example: Example) -> list[str]:
    return [label for label in _labels(example) if label != example.focus_labels[0]]


def _ask_for(example: Example, label: str) -> Example:
    """The same example with a request for another label; answer and focus stay."""
    return replace(example, request=example.request.replace(example.focus_labels[0], label))


def spoken_answer(example: Example) -> str:
    """The turn that gives the gold answer."""
    if example.metric == "fact":
        return answer_text("true" if example.answer == "1" else "false")
    return answer_text(example.answer)


def _direct(example: Example) -> Demonstration:
    messages = prompt_messages(example)
    messages.append({"role": "assistant", "content": spoken_answer(example)})
    return Demonstration(messages, example.figure.kind)


def thought(example: Example, call: ToolCall, rng: random.Random) -> str:
    """A few words before the call: its label, and what names it."""
    label = call.labels[0]
    said = {"question": example.request, "hint": hint_of(example) or ""}
    names = [where for where, text in said.items() if f" {label} " in f" {text} "]
    return f"the {rng.choice(names or ['figure'])} names {label} ."


def _with_tool_turn(example: Example, call: ToolCall, before: str) -> Demonstration:
    image = open_image(example)
    messages = prompt_messages(example, image)
    messages.append({"role": "assistant", "content": before + render_call(call)})
    messages += run_call(example, image, call)
    messages.append({"role": "assistant", "content": spoken_answer(example)})
    return Demonstration(messages, example.figure.kind)


def run_call(example: Example, image: Image.Image, call: ToolCall) -> list[Message]:
    """The environment's answer to one call: the edited figure, or the error."""
    environment = ENVIRONMENTS[example.figure.kind]()
    environment.reset(figure=figure_to_json(example.figure), images=[image])
    function = {"name": call.name, "arguments": call.arguments}
    return answer_tool_calls(environment, [{"type": "function", "function": function}])


def reading_exercise(example: Example) -> Demonstration:
    """A short conversation that trains reading alone: the request, the masked figure, the answer."""
    family = _family(example)
    call = ToolCall(f"focus_on_{family}_with_mask", example.focus_labels)
    messages: list[Message] = [
        {"role": "user", "content": [{"type": "text", "text": example.request}]},
        *run_call(example, open_image(example), call),
        {"role": "assistant", "content": spoken_answer(example)},
    ]
    return Demonstration(messages, None)
