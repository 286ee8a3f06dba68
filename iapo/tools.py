"""The closed list of image tools: parse a model's text, validate the calls, apply them to a copy.

The tools are ReFocus's (arXiv 2501.05452) and the sub-figure mask. A call is data: Hermes JSON between
``<tool_call>`` tags, checked against the list. Nothing that a model writes is ever executed.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw

from iapo.types import Box, Figure, FigureKind, ParsedTurn, ToolCall, ToolResult

_FRAME_WIDTH = 5
_FRAME_INSET = 2
_HIGHLIGHT = (255, 0, 0, 50)
_QUOTED = 80
"""Longest piece of a model's text that an error repeats, characters."""

_THING = {
    "columns": "columns of the table",
    "rows": "rows of the table",
    "x_values": "values on the x axis",
    "y_values": "values on the y axis",
    "subfigures": "sub-figures",
}
_EFFECT = {
    "mask": "Whites out the {} that are not listed",
    "draw": "Draws a red frame around the listed {}",
    "highlight": "Lays a translucent red over the listed {}",
}


@dataclass(frozen=True)
class Tool:
    """One entry of the closed list."""

    name: str
    family: str
    mode: str
    parameter: str
    """Name of its one argument, a list of labels."""
    description: str


def _tool(family: str, mode: str) -> Tool:
    description = f"{_EFFECT[mode].format(_THING[family])} and returns the edited image."
    return Tool(f"focus_on_{family}_with_{mode}", family, mode, f"{family}_to_focus_on", description)


TOOLS: Mapping[str, Tool] = {
    tool.name: tool
    for tool in [
        *(
            _tool(family, mode)
            for family in ("columns", "rows", "x_values", "y_values")
            for mode in ("mask", "draw", "highlight")
        ),
        _tool("subfigures", "mask"),
    ]
}
"""Name → tool: the twelve of ReFocus and the sub-figure mask."""

_FAMILIES: Mapping[FigureKind, tuple[str, ...]] = {
    "h_bar": ("x_values", "y_values"),
    "v_bar": ("x_values", "y_values"),
    "table": ("columns", "rows"),
    "subfigures": ("subfigures",),
}


def tools_for(kind: FigureKind) -> tuple[Tool, ...]:
    """The tools that a figure of this kind is offered: charts get chart tools, tables table tools."""
    return tuple(tool for tool in TOOLS.values() if tool.family in _FAMILIES[kind])


CALL_TOKEN = "<tool_call>"
"""What every call begins with; a single token of Qwen's vocabularies and of the tiny models'."""
_TAG = re.compile(r"</?tool_call>")


def parse_turn(text: str) -> ParsedTurn:
    """Read the tool calls of one turn. Never raises, whatever the text, and takes linear time.

    Args:
        text: what a model wrote; other text around the calls is ignored.

    Returns:
        Every call in order and no error; or no call and the first error. A turn without
        ``<tool_call>`` has neither.
    """
    calls: list[ToolCall] = []
    try:
        for block in _blocks(text):
            calls.append(_validated(_decoded(block)))
    except _CallError as error:
        return ParsedTurn([], str(error))
    return ParsedTurn(calls, None)


class _CallError(ValueError):
    """A malformed call; the text is what the model reads."""


def _blocks(text: str) -> Iterable[str]:
    """The texts between paired tags."""
    start: int | None = None
    for tag in _TAG.finditer(text):
        if tag.group() == CALL_TOKEN:
            if start is not None:
                raise _CallError("found <tool_call> inside a tool call; expected </tool_call> first")
            start = tag.end()
        elif start is not None:
            yield text[start : tag.start()]
            start = None
    if start is not None:
        raise _CallError("found <tool_call> without </tool_call>; close every call")


def _decoded(block: str) -> Any:
    try:
        return json.loads(block, object_pairs_hook=_unique)
    except _CallError:
        raise
    except (ValueError, RecursionError):
        raise _CallError(f"found {_quote(block)} in a tool call; expected JSON with name and arguments") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise _CallError("found a key twice in a tool call; expected each once")
    return dict(pairs)


def _validated(value: Any) -> ToolCall:
    if not isinstance(value, dict) or value.keys() != {"name", "arguments"}:
        raise _CallError(f"found {_quote(value)}; expected an object with name and arguments")
    name, arguments = value["name"], value["arguments"]
    tool = TOOLS.get(name) if isinstance(name, str) else None
    if tool is None:
        raise _CallError(f"found tool {_quote(name)}{_nearest(name, TOOLS)}; no such tool")
    if not isinstance(arguments, dict) or arguments.keys() != {tool.parameter}:
        raise _CallError(f"found arguments {_quote(arguments)}; {name} takes {tool.parameter}")
    labels = arguments[tool.parameter]
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise _CallError(f"found {_quote(labels)}; {tool.parameter} is a list of strings")
    return ToolCall(tool.name, tuple(labels))


def _quote(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    text = text.encode("utf-8", "replace").decode()
    return repr(text if len(text) <= _QUOTED else text[:_QUOTED] + "…")


def _nearest(word: Any, known: Iterable[str]) -> str:
    # difflib is quadratic in the length of a model's text, so only a name-sized piece is compared.
    near = difflib.get_close_matches(str(word)[:_QUOTED], list(known), n=1)
    return f" (nearest: {near[0]!r})" if near else ""


def canonical(call: ToolCall) -> str:
    """One text for calls with the same effect: focusing is on a set, so labels are sorted and unique."""
    labels = sorted(set(call.labels))
    return json.dumps(
        {"name": call.name, "arguments": {f"{call.family}_to_focus_on": labels}},
        ensure_ascii=False,
    )


def render_call(call: ToolCall) -> str:
    """The call as a model writes it; :func:`parse_turn` reads it back."""
    body = json.dumps({"name": call.name, "arguments": call.arguments}, ensure_ascii=False)
    return tagged(body)


def tagged(body: str) -> str:
    """A call's JSON between its tags, as a turn holds it."""
    return f"{CALL_TOKEN}{body}</tool_call>"


def is_noop(figure: Figure, call: ToolCall) -> bool:
    """Whether the call leaves this figure as it is: nothing listed, or nothing left to mask."""
    labels = figure.boxes.get(call.family, {})  # type: ignore[call-overload]
    return not call.labels or (call.mode == "mask" and set(labels) <= set(call.labels))


def apply(image: Image.Image, figure: Figure, calls: Sequence[ToolCall]) -> ToolResult:
    """Apply calls in order, each to the result of the one before.

    Args:
        image: the figure; left as it is.
        figure: its labels and boxes in pixels of ``image``.
        calls: well-formed calls.

    Returns:
        The edited copy (RGB); or, where a call does not fit the figure, the original and the error.
    """
    edited = image.convert("RGB")
    if edited is image:
        edited = image.copy()
    for call in calls:
        error = _misfit(figure, call)
        if error is not None:
            return ToolResult(image, error)
        if not is_noop(figure, call):
            edited = _focus(edited, figure, call)
    return ToolResult(edited, None)


def _misfit(figure: Figure, call: ToolCall) -> str | None:
    boxes = figure.boxes.get(call.family)  # type: ignore[call-overload]
    if not boxes:
        has = ", ".join(family for family, labels in figure.boxes.items() if labels) or "none"
        return f"this figure has no {call.family}; it has {has}"
    unknown = next((label for label in call.labels if label not in boxes), None)
    if unknown is None:
        return None
    known = ", ".join(list(boxes)[:10])
    return f"no {call.family} {_quote(unknown)}{_nearest(unknown, boxes)}; it has {known}"


def _focus(image: Image.Image, figure: Figure, call: ToolCall) -> Image.Image:
    boxes: Mapping[str, Box] = figure.boxes[call.family]  # type: ignore[index]
    listed = [box for label, box in boxes.items() if label in call.labels]
    if call.mode == "mask":
        others = [box for label, box in boxes.items() if label not in call.labels]
        return _masked(image, others, keep=listed)
    if call.mode == "draw":
        return _framed(image, listed)
    return _highlighted(image, listed)


def _masked(image: Image.Image, boxes: Sequence[Box], keep: Sequence[Box]) -> Image.Image:
    """White boxes; where boxes overlap, what is in focus stays visible."""
    masked = image.copy()
    draw = ImageDraw.Draw(masked)
    for box in boxes:
        draw.rectangle(_inclusive(box), fill="white")
    for box in keep:
        area = _clipped(box, image)
        if area is not None:
            masked.paste(image.crop(area), area[:2])
    return masked


def _framed(image: Image.Image, boxes: Sequence[Box]) -> Image.Image:
    framed = image.copy()
    draw = ImageDraw.Draw(framed)
    for left, top, right, bottom in boxes:
        outline = (
            left + _FRAME_INSET,
            top + _FRAME_INSET,
            right - _FRAME_INSET,
            bottom - _FRAME_INSET,
        )
        if outline[2] > outline[0] and outline[3] > outline[1]:
            draw.rectangle(_inclusive(outline), outline="red", width=_FRAME_WIDTH)
    return framed


def _highlighted(image: Image.Image, boxes: Sequence[Box]) -> Image.Image:
    overlay = Image.new("RGBA", image.size, (0, 0, 0, 0))
    draw = ImageDraw.Draw(overlay)
    for box in boxes:
        draw.rectangle(_inclusive(box), fill=_HIGHLIGHT)
    return Image.alpha_composite(image.convert("RGBA"), overlay).convert("RGB")


def _inclusive(box: Box) -> Box:
    """PIL's rectangles include their right and bottom edges."""
    left, top, right, bottom = box
    return (left, top, max(left, right - 1), max(top, bottom - 1))


def _clipped(box: Box, image: Image.Image) -> Box | None:
    left, top = max(0, box[0]), max(0, box[1])
    right, bottom = min(image.width, box[2]), min(image.height, box[3])
    return (left, top, right, bottom) if right > left and bottom > top else None
