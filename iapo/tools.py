"""The closed list of image tools: parse a model's text, validate the calls, apply them to a copy.

The tools are ReFocus's twelve (arXiv 2501.05452) and its sub-figure mask. A call is data: Hermes JSON
between ``<tool_call>`` tags, checked against the list. Nothing that a model writes is ever executed.
"""

from __future__ import annotations

import difflib
import json
import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from PIL import Image, ImageDraw

from iapo.types import Box, Family, Figure, FigureKind, ParsedTurn, ToolCall, ToolResult

Mode = Literal["mask", "draw", "highlight"]
"""How a tool draws the focus."""

_THING: Mapping[Family, str] = {
    "columns": "columns of the table",
    "rows": "rows of the table",
    "x_values": "values on the x axis",
    "y_values": "values on the y axis",
    "subfigures": "sub-figures",
}
_EFFECT: Mapping[Mode, str] = {
    "mask": "Whites out the {} that are not listed",
    "draw": "Draws a red frame around the listed {}",
    "highlight": "Lays a translucent red over the listed {}",
}


@dataclass(frozen=True)
class Tool:
    """One entry of the closed list."""

    name: str
    """``focus_on_<family>_with_<mode>``."""
    family: Family
    mode: Mode
    parameter: str
    """Name of its one argument, a list of labels: ``<family>_to_focus_on``."""
    description: str
    """One sentence for the prompt."""


def _tool(family: Family, mode: Mode) -> Tool:
    description = f"{_EFFECT[mode].format(_THING[family])} and returns the edited image."
    name = f"focus_on_{family}_with_{mode}"
    return Tool(name, family, mode, f"{family}_to_focus_on", description)


def _closed_list() -> Iterator[Tool]:
    for family in _THING:
        # CharXiv's sub-figures can only be masked.
        yield from (_tool(family, mode) for mode in _EFFECT if (family, mode) not in _MISSING)


_MISSING: set[tuple[Family, Mode]] = {("subfigures", "draw"), ("subfigures", "highlight")}

TOOLS: Mapping[str, Tool] = MappingProxyType({tool.name: tool for tool in _closed_list()})
"""Name → tool: the twelve of ReFocus and the sub-figure mask. Read-only."""

_FAMILIES: Mapping[FigureKind, tuple[Family, ...]] = {
    "h_bar": ("x_values", "y_values"),
    "v_bar": ("x_values", "y_values"),
    "table": ("columns", "rows"),
    "subfigures": ("subfigures",),
}


def tools_for(kind: FigureKind) -> tuple[Tool, ...]:
    """The tools that a figure of this kind is offered: chart tools for charts, and so on."""
    return tuple(tool for tool in TOOLS.values() if tool.family in _FAMILIES[kind])


_OPENING, _CLOSING = "<tool_call>", "</tool_call>"
_SPACE = re.compile(r"\s*")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


class _CallError(ValueError):
    """A malformed call; the text is what the model reads."""


def parse_turn(text: str) -> ParsedTurn:
    """Read the tool calls of one turn. Never raises, whatever the text, and takes linear time.

    Args:
        text: what a model wrote; other text around the calls is ignored.

    Returns:
        Every call in order and no error; or no call and the first error. A turn without
        ``<tool_call>`` has neither.
    """
    try:
        return ParsedTurn([_validated(value) for value in _json_values(text)], None)
    except _CallError as error:
        return ParsedTurn([], str(error))


def _json_values(text: str) -> Iterator[Any]:
    """The JSON value of every ``<tool_call>`` block, read once from left to right."""
    opening = text.find(_OPENING)
    while opening != -1:
        start = _after_space(text, opening + len(_OPENING))
        value, end = _decoded(text, start)
        closing = _after_space(text, end)
        if not text.startswith(_CLOSING, closing):
            raise _CallError(
                f"found {_piece(text, closing)} after a tool call's JSON; expected {_CLOSING}"
            )
        yield value
        opening = text.find(_OPENING, closing)


def _after_space(text: str, start: int) -> int:
    space = _SPACE.match(text, start)
    return space.end() if space else start


def _decoded(text: str, start: int) -> tuple[Any, int]:
    try:
        # Decoding in place finds the end of the JSON itself: a label may hold the tags' own text.
        return _DECODER.raw_decode(text, start)
    except _CallError:
        raise
    except (ValueError, RecursionError):
        found = f"found {_piece(text, start)} in a tool call"
    raise _CallError(f'{found}; expected JSON: {{"name": ..., "arguments": {{...}}}}')


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise _CallError(f"found a key twice among {_quote(list(value))}; expected each key once")
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_unique)


def _validated(value: Any) -> ToolCall:
    if not isinstance(value, dict) or value.keys() != {"name", "arguments"}:
        raise _CallError(
            f"found {_quote(value)}; expected an object with just the keys name and arguments"
        )
    name, arguments = value["name"], value["arguments"]
    tool = TOOLS.get(name) if isinstance(name, str) else None
    if tool is None:
        raise _CallError(
            f"found tool {_quote(name)}; expected the name of a listed tool{_nearest(name, TOOLS)}"
        )
    if not isinstance(arguments, dict) or arguments.keys() != {tool.parameter}:
        raise _CallError(
            f"found arguments {_quote(arguments)}; {name} takes just {tool.parameter}"
        )
    return ToolCall(tool.name, tuple(_labels(tool, arguments[tool.parameter])))


def _labels(tool: Tool, value: Any) -> Iterator[str]:
    if not isinstance(value, list):
        raise _CallError(f"found {_quote(value)}; {tool.parameter} is a list of strings")
    for label in value:
        # A lone surrogate can be escaped in JSON, but no file or key can store it.
        if not isinstance(label, str) or _SURROGATE.search(label):
            raise _CallError(
                f"found {_quote(label)} in {tool.parameter}; expected a list of strings"
            )
        yield label


_QUOTED = 80
"""Longest piece of a model's or a figure's text that an error repeats, characters."""
_BRIEF = reprlib.Repr()
_BRIEF.maxlevel, _BRIEF.maxstring = 3, _QUOTED


def _quote(value: Any) -> str:
    """A value on one short line. Bounded in depth: the JSON may be as deep as the stack."""
    return _shortened(_BRIEF.repr(value), _QUOTED)


def _piece(text: str, start: int) -> str:
    piece = text[start : start + _QUOTED + 1]
    return _shortened(repr(piece), _QUOTED) if piece else "the end of the text"


def _shortened(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _nearest(word: Any, known: Iterable[str]) -> str:
    # difflib is quadratic in the length of a model's text, so only label-sized pieces are compared.
    pieces = {label[:_QUOTED]: label for label in known}
    near = difflib.get_close_matches(str(word)[:_QUOTED], pieces, n=1) if word else []
    return f" (nearest: {_quote(pieces[near[0]])})" if near else ""
