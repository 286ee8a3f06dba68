"""The environment of a rollout: one figure and the tools that edit it.

TRL's trainer creates one instance per rollout and offers its public methods as tools, so there is one class per figure
kind, with only the tools that fit the kind. Evaluation uses the same classes through :func:`answer_tool_calls`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, Literal, NoReturn, TypedDict, get_args

from PIL import Image
from transformers.utils import get_json_schema

from iapo.data.prompts import Message
from iapo.data.store import figure_from_json
from iapo.tools.drawing import apply
from iapo.tools.parsing import CallError, call_spans, checked_call
from iapo.tools.registry import Tool, tools_for
from iapo.types import FigureKind, ToolCall


class ImagePart(TypedDict):
    """An image inside a chat message."""

    type: Literal["image"]
    image: Image.Image


class FunctionCall(TypedDict):
    """The name and the arguments of a tool call, as the model wrote them."""

    name: object
    """Usually a string, but nothing has validated it yet."""
    arguments: Mapping[str, object]


class ToolCallPart(TypedDict):
    """A tool call inside an assistant message, as :func:`iapo.tools.messages.assistant_message` makes it."""

    type: str
    function: FunctionCall


class ToolError(ValueError):
    """A call that could not be carried out; the message is shown to the model."""


class FigureEnvironment:
    """The base class of all figure kinds; subclasses add the tools as methods.

    TRL offers every public method but ``reset`` as a tool, so everything else here is private or a property. Calls
    accumulate: each edits the image that the previous one returned.
    """

    def __init__(self) -> None:
        self._calls: list[ToolCall] = []
        self._errors: list[str] = []

    def reset(self, figure: str, images: Sequence[Image.Image], **row: object) -> None:
        """Start a rollout on a new figure.

        Args:
            figure: the figure's labels and boxes as JSON, as the dataset stores them.
            images: the images of the dataset row; the first is the figure's.
            row: the other columns of the dataset, which are ignored.
        """
        self._figure = figure_from_json(figure)
        self._image = images[0]
        self._calls, self._errors = [], []

    def _focus(self, tool: Tool, arguments: dict[str, object]) -> list[ImagePart]:
        """Validate and apply one call, and return the edited image as message content."""
        try:
            call = checked_call(tool.name, arguments)
        except CallError as error:
            self._fail(str(error))
        self._calls.append(call)
        result = apply(self._image, self._figure, [call])
        if result.error is not None:
            self._fail(result.error)
        self._image = result.image
        return [{"type": "image", "image": self._image}]

    def _fail(self, error: str) -> NoReturn:
        self._errors.append(error)
        raise ToolError(error)

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """The well-formed calls so far, whether or not they could be carried out."""
        return tuple(self._calls)

    @property
    def succeeded(self) -> bool:
        """Whether the rollout made at least one call and none failed."""
        return bool(self._calls) and not self._errors


def _tool_method(tool: Tool) -> Callable[..., list[ImagePart]]:
    """Build a method whose signature and docstring become the tool's definition in the prompt."""

    def focus(self: FigureEnvironment, **arguments: object) -> list[ImagePart]:
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
"""Figure kind → environment class. TRL's ``environment_factory``: the dataset column ``environment`` holds the key."""


def attempts_call(text: str) -> bool:
    """Return whether a turn contains a tool call outside its thoughts, well formed or not."""
    return bool(call_spans(text))


@cache
def tool_schemas(kind: FigureKind) -> tuple[dict[str, Any], ...]:
    """Return the JSON schemas of a figure kind's tools for the chat template, sorted by name as TRL sorts them."""
    environment = ENVIRONMENTS[kind]()
    names = sorted(tool.name for tool in tools_for(kind))
    return tuple(get_json_schema(getattr(environment, name)) for name in names)


def answer_tool_calls(environment: FigureEnvironment, tool_calls: Sequence[ToolCallPart]) -> list[Message]:
    """Carry out the calls of one turn and return the tool messages, with the same wording as TRL's training loop.

    Args:
        environment: the rollout's environment, after ``reset``.
        tool_calls: the turn's calls, from :func:`iapo.tools.messages.assistant_message`.

    Returns:
        One tool message per call: the edited image, or the error.
    """
    messages: list[Message] = []
    for call in tool_calls:
        function = call["function"]
        name = function["name"]
        content: str | list[ImagePart]
        try:
            if not (isinstance(name, str) and name.startswith("focus_on_") and hasattr(environment, name)):
                environment._fail(f"Tool {name} not found.")
            content = getattr(environment, name)(**function["arguments"])
        except Exception as error:  # Like TRL, report any failure to the model.
            content = str({"error": str(error)})
        messages.append({"role": "tool", "name": name, "content": content})
    return messages
