"""The environment of a rollout: one figure, its tools, one turn of calls.

TRL's trainer makes one instance per rollout and takes its public methods for tools, so there is one class
per figure kind, each with just the tools that fit the kind. The evaluator drives the same classes through
:func:`answer_tool_calls`.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, get_args

from PIL import Image
from transformers.utils import get_json_schema

from iapo.data.store import figure_from_json
from iapo.prompts import Message
from iapo.tools import CALL_TOKEN, Tool, apply, parse_turn, tagged, tools_for
from iapo.types import FigureKind, ToolCall


class ToolError(ValueError):
    """A call that could not be carried out; its text is what the model reads."""


class FigureEnvironment:
    """What every figure kind shares; the tools are methods of the subclasses.

    TRL takes every public method for a tool, so what is not one is private or a property. A second call
    in a turn edits what the first one left.
    """

    def __init__(self) -> None:
        self._calls: list[ToolCall] = []
        self._errors: list[str] = []

    def reset(self, figure: str, images: Sequence[Image.Image], **row: Any) -> None:
        """Start a rollout.

        Args:
            figure: the figure's structure as stored in the dataset (JSON).
            images: the dataset row's images; the first is the figure.
            row: the dataset's other columns, not needed here.
        """
        self._figure = figure_from_json(figure)
        self._image = images[0]
        self._calls, self._errors = [], []

    def _focus(self, tool: Tool, arguments: dict[str, Any]) -> list[dict[str, Any]]:
        """Validate and apply one call; the edited figure as message content."""
        # The one parser reads this call too, so a call means the same wherever it comes from.
        turn = parse_turn(tagged(json.dumps({"name": tool.name, "arguments": arguments})))
        error = turn.error
        if error is None:
            self._calls.extend(turn.calls)
            result = apply(self._image, self._figure, turn.calls)
            self._image, error = result.image, result.error
        if error is not None:
            self._errors.append(error)
            raise ToolError(error)
        return [{"type": "image", "image": self._image}]

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """The well-formed calls so far, carried out or not."""
        return tuple(self._calls)

    @property
    def succeeded(self) -> bool:
        """Whether tools ran in this rollout and none failed."""
        return bool(self._calls) and not self._errors


def _tool_method(tool: Tool) -> Callable[..., list[dict[str, Any]]]:
    """A method whose signature and docstring are the tool's definition in the prompt."""

    def focus(self: FigureEnvironment, **arguments: Any) -> list[dict[str, Any]]:
        return self._focus(tool, arguments)

    focus.__name__ = tool.name
    focus.__qualname__ = f"FigureEnvironment.{tool.name}"
    focus.__doc__ = f"{tool.description}\n\nArgs:\n    {tool.parameter}: The labels to focus on.\n"
    focus.__annotations__ = {tool.parameter: list[str], "return": list}
    focus.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD),
            inspect.Parameter(tool.parameter, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=list[str]),
        ],
        return_annotation=list,
    )
    return focus


def _environment_class(kind: FigureKind) -> type[FigureEnvironment]:
    methods = {tool.name: _tool_method(tool) for tool in tools_for(kind)}
    return type(f"{kind.title().replace('_', '')}Environment", (FigureEnvironment,), methods)


ENVIRONMENTS: dict[FigureKind, type[FigureEnvironment]] = {
    kind: _environment_class(kind) for kind in get_args(FigureKind)
}
"""Figure kind → environment class; TRL's ``environment_factory``, chosen by the column ``environment``."""


def attempts_call(text: str) -> bool:
    """Whether a turn asks for a tool, well formed or not."""
    return CALL_TOKEN in text


@cache
def tool_schemas(kind: FigureKind) -> tuple[dict[str, Any], ...]:
    """The tools of a figure kind as the chat template takes them, in the trainer's order (by name)."""
    environment = ENVIRONMENTS[kind]()
    names = sorted(tool.name for tool in tools_for(kind))
    return tuple(get_json_schema(getattr(environment, name)) for name in names)


def answer_tool_calls(environment: FigureEnvironment, tool_calls: Sequence[dict[str, Any]]) -> list[Message]:
    """Carry out one turn's calls and return the tool messages, worded as TRL's training loop words them.

    Args:
        environment: after ``reset``.
        tool_calls: as TRL's ``parse_response`` returns them.
    """
    messages: list[Message] = []
    for call in tool_calls:
        function = call["function"]
        name = function["name"]
        content: Any
        try:
            if not (isinstance(name, str) and name.startswith("focus_on_") and hasattr(environment, name)):
                raise ToolError(f"Tool {name} not found.")
            content = getattr(environment, name)(**function["arguments"])
        except Exception as error:  # as in TRL: the model reads what went wrong
            content = str({"error": str(error)})
        messages.append({"role": "tool", "name": name, "content": content})
    return messages
