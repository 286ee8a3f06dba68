"""The reader of tool calls, and the renderers that write them.

A call is data: Hermes-style JSON between ``<tool_call>`` tags, validated against :data:`iapo.tools.registry.TOOLS`.
Nothing that a model writes is ever executed.

This module alone decides what a turn calls. The loops of training and evaluation carry out what
:mod:`iapo.tools.messages` makes of its findings, the environments validate arguments with :func:`checked_call`, and
rewards, records and the teacher's cache ask :func:`parse_turn`. Its rules:

- Tags inside ``<think>`` are a thought, not a call; a thought that is not closed runs to the end of the turn.
- A call ends at the first ``</tool_call>``. One that is never closed is malformed, even if its JSON is complete.
- Keys beside ``name`` and ``arguments`` are ignored: other formats add an ``id`` or a ``type``, which changes nothing
  about what is carried out, and TRL ignores them too.
- A key that occurs twice is malformed, because JSON readers differ on which of its values counts.
- A lone surrogate (``\\ud83d`` without its second half) is malformed: no tokenizer and no file could hold it.
- If one call of a turn is malformed, the turn calls nothing.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable
from typing import NamedTuple

from iapo.tools.registry import TOOLS
from iapo.types import ParsedTurn, ToolCall

CALL_TOKEN = "<tool_call>"
"""The opening tag of every call; a single token in Qwen's vocabularies and in the tiny models'."""

_CALL_END = "</tool_call>"

_CLOSING = {CALL_TOKEN: _CALL_END, "<think>": "</think>"}
"""Opening tag → closing tag."""

_TAG = re.compile("|".join(re.escape(tag) for pair in _CLOSING.items() for tag in pair))

_MAX_QUOTED = 80
"""Characters of a model's text that a message repeats at most."""

_MAX_NESTING = 100
"""Levels of JSON in a call at most. Python's own limit depends on how deep the caller's stack is."""


class CallError(ValueError):
    """A malformed call; the message is shown to the model."""


class RequestedCall(NamedTuple):
    """A call as the model wrote it: its JSON is sound, but neither the tool nor the arguments are checked."""

    name: str
    arguments: object


def parse_turn(text: str) -> ParsedTurn:
    """Parse the tool calls of one assistant turn. Never raises, whatever the text, and runs in linear time.

    Args:
        text: the turn as the model wrote it; text outside the tags is ignored.

    Returns:
        Either all calls in order and no error, or no calls and the error of a malformed one. A turn without
        ``<tool_call>`` has no calls and no error.
    """
    try:
        return ParsedTurn([checked_call(*request) for request in requested_calls(text)], None)
    except CallError as error:
        return ParsedTurn([], str(error))


def requested_calls(text: str) -> list[RequestedCall]:
    """Return the calls of a turn in order, before their tools and arguments are checked.

    Args:
        text: the turn as the model wrote it.

    Raises:
        CallError: if a call is not closed, is not JSON, or is not an object with a name.
    """
    return [_requested(text[start:end]) for start, end in call_spans(text)]


def call_spans(text: str) -> list[tuple[int, int]]:
    """Return start and end of each call in a turn, tags included; one that is not closed ends with the turn."""
    spans: list[tuple[int, int]] = []
    opening: str | None = None
    start = 0
    for tag in _TAG.finditer(text):
        if opening is None and tag.group() in _CLOSING:
            opening, start = tag.group(), tag.start()
        elif opening is not None and tag.group() == _CLOSING[opening]:
            if opening == CALL_TOKEN:
                spans.append((start, tag.end()))
            opening = None
    if opening == CALL_TOKEN:
        spans.append((start, len(text)))
    return spans


def _requested(span: str) -> RequestedCall:
    if not span.endswith(_CALL_END):
        raise CallError(f"found <tool_call> without {_CALL_END}; close every call")
    value = _decoded(span.removeprefix(CALL_TOKEN).removesuffix(_CALL_END))
    if not isinstance(value, dict) or "name" not in value:
        raise CallError(f"found {quoted(value)}; expected an object with name and arguments")
    if not isinstance(value["name"], str):
        raise CallError(f"found tool {quoted(value['name'])}; no such tool, a name is a string")
    arguments = value.get("arguments")
    return RequestedCall(value["name"], {} if arguments is None else arguments)


def _decoded(block: str) -> object:
    try:
        value = json.loads(block, object_pairs_hook=_without_duplicate_keys)
    except CallError:
        raise
    except (ValueError, RecursionError):
        raise CallError(f"found {quoted(block)} in a tool call; expected JSON with name and arguments") from None
    if _is_deep(value, _MAX_NESTING):
        raise CallError(f"found JSON nested more than {_MAX_NESTING} levels deep in a tool call; expected a flat list")
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise CallError(
            f"found half a character in {quoted(block)}; expected both halves of \\ud800 to \\udfff"
        ) from None
    return value


def _without_duplicate_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise CallError("found a key twice in a tool call; expected each once")
    return found


def _is_deep(value: object, levels: int) -> bool:
    """Return whether a JSON value is nested more than this many levels deep."""
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    nested = [item for item in items if isinstance(item, dict | list)]
    return bool(nested) and (levels <= 1 or any(_is_deep(item, levels - 1) for item in nested))


def checked_call(name: str, arguments: object) -> ToolCall:
    """Return the call of a tool with these arguments.

    Args:
        name: name of the tool.
        arguments: decoded JSON, of any type.

    Raises:
        CallError: if there is no such tool, or it does not take these arguments.
    """
    tool = TOOLS.get(name)
    if tool is None:
        raise CallError(f"found tool {quoted(name)}{nearest_hint(name, TOOLS)}; no such tool")
    if not isinstance(arguments, dict) or arguments.keys() != {tool.parameter}:
        raise CallError(f"found arguments {quoted(arguments)}; {name} takes {tool.parameter}")
    labels = arguments[tool.parameter]
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise CallError(f"found {quoted(labels)}; {tool.parameter} is a list of strings")
    return ToolCall(tool.name, tuple(labels))


def quoted(value: object) -> str:
    """Return a value in quotes for a message: as :func:`shortened`, and safe to encode as UTF-8."""
    return repr(shortened(value if isinstance(value, str) else repr(value)).encode("utf-8", "replace").decode())


def shortened(text: str) -> str:
    """Cut a model's text to a readable length, and break up what a tokenizer would read as a special token."""
    text = text if len(text) <= _MAX_QUOTED else text[:_MAX_QUOTED] + "…"
    # Spelled out in a tool's answer, <|image_pad|> would stand for an image that the prompt does not have.
    return text.replace("<|", "< |")


def nearest_hint(word: object, known: Iterable[str]) -> str:
    """Return `` (nearest: '…')`` with the known name most similar to ``word``, or an empty string if none is close."""
    # difflib takes quadratic time and the model's text may be long, so only a name-sized prefix is compared.
    matches = difflib.get_close_matches(str(word)[:_MAX_QUOTED], list(known), n=1)
    return f" (nearest: {matches[0]!r})" if matches else ""


def canonical(call: ToolCall) -> str:
    """Return JSON that is equal for calls with the same effect: label order and repeats do not matter to a tool."""
    labels = sorted(set(call.labels))
    return json.dumps(
        {"name": call.name, "arguments": {f"{call.family}_to_focus_on": labels}},
        ensure_ascii=False,
    )


def render_call(call: ToolCall) -> str:
    """Return a call in the syntax a model writes, tags included; the inverse of :func:`parse_turn`."""
    body = json.dumps({"name": call.name, "arguments": call.arguments}, ensure_ascii=False)
    # JSON allows a backslash before the slash, so that a label with the closing tag does not end the call.
    return tagged(body.replace(_CALL_END, _CALL_END.replace("/", r"\/")))


def tagged(body: str) -> str:
    """Wrap a call's JSON in the ``<tool_call>`` tags."""
    return f"{CALL_TOKEN}{body}{_CALL_END}"
