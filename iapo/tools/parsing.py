"""The parser of tool calls, and the renderers that write them.

A call is data: Hermes-style JSON between ``<tool_call>`` tags, validated against :data:`iapo.tools.registry.TOOLS`.
Nothing that a model writes is ever executed.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable

from iapo.tools.registry import TOOLS
from iapo.types import ParsedTurn, ToolCall

CALL_TOKEN = "<tool_call>"
"""The opening tag of every call; a single token in Qwen's vocabularies and in the tiny models'."""

_MAX_QUOTED = 80
"""Characters of a model's text that an error message repeats at most."""

_TAG = re.compile(r"</?tool_call>")


def parse_turn(text: str) -> ParsedTurn:
    """Parse the tool calls of one assistant turn. Never raises, whatever the text, and runs in linear time.

    Args:
        text: the turn as the model wrote it; text outside the tags is ignored.

    Returns:
        Either all calls in order and no error, or no calls and the first error. A turn without
        ``<tool_call>`` has no calls and no error.
    """
    calls: list[ToolCall] = []
    try:
        for block in _blocks(text):
            calls.append(_validated(_decoded(block)))
    except _CallError as error:
        return ParsedTurn([], str(error))
    return ParsedTurn(calls, None)


class _CallError(ValueError):
    """A malformed call; the message is shown to the model."""


def _blocks(text: str) -> Iterable[str]:
    """Yield the text between each pair of tags."""
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


def _decoded(block: str) -> object:
    try:
        return json.loads(block, object_pairs_hook=_without_duplicate_keys)
    except _CallError:
        raise
    except (ValueError, RecursionError):
        raise _CallError(f"found {quoted(block)} in a tool call; expected JSON with name and arguments") from None


def _without_duplicate_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise _CallError("found a key twice in a tool call; expected each once")
    return dict(pairs)


def _validated(value: object) -> ToolCall:
    if not isinstance(value, dict) or value.keys() != {"name", "arguments"}:
        raise _CallError(f"found {quoted(value)}; expected an object with name and arguments")
    name, arguments = value["name"], value["arguments"]
    tool = TOOLS.get(name) if isinstance(name, str) else None
    if tool is None:
        raise _CallError(f"found tool {quoted(name)}{nearest_hint(name, TOOLS)}; no such tool")
    if not isinstance(arguments, dict) or arguments.keys() != {tool.parameter}:
        raise _CallError(f"found arguments {quoted(arguments)}; {name} takes {tool.parameter}")
    labels = arguments[tool.parameter]
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise _CallError(f"found {quoted(labels)}; {tool.parameter} is a list of strings")
    return ToolCall(tool.name, tuple(labels))


def quoted(value: object) -> str:
    """Return a value in quotes for an error message, cut to a readable length and safe to encode as UTF-8."""
    text = value if isinstance(value, str) else repr(value)
    text = text.encode("utf-8", "replace").decode()
    return repr(text if len(text) <= _MAX_QUOTED else text[:_MAX_QUOTED] + "…")


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
    return tagged(body)


def tagged(body: str) -> str:
    """Wrap a call's JSON in the ``<tool_call>`` tags."""
    return f"{CALL_TOKEN}{body}</tool_call>"
