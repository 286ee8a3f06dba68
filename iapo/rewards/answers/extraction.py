"""The final answer in a model's turn: behind its label, never inside its thinking. No torch."""

from __future__ import annotations

import re

from iapo.tools.parsing import CALL_TOKEN, CallError, requested_calls

_FULL_WIDTH = {full: full - 0xFEE0 for full in range(0xFF01, 0xFF5F)} | {0x3000: 0x20}
"""Full-width forms of ASCII, as some tokenizers write a label's letters and colon → the character itself."""

_MARKUP = r"(?:[ \t*_`~\"'”’)\]}]|</?[a-zA-Z]\w{0,10}>){0,40}"
"""Emphasis, closing brackets and tags between a label and its colon."""

_LABEL = re.compile(
    rf"final\s{{1,10}}answer{_MARKUP}:|^[ \t#*_>`~]{{0,20}}final\s{{1,10}}answer{_MARKUP}\r?$",
    re.IGNORECASE | re.MULTILINE,
)
"""A label with its colon, or a heading that is nothing but the label."""

_END = re.compile(r"TERMINATE|<\||<tool_call>|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")
_WRAPPING = " \t*_`\"'“”"
"""Characters stripped from both ends of an answer: white space, quotes and Markdown emphasis."""

_ABBREVIATION = re.compile(r"(^|\W)[^\W\d]\.[^\W\d]\.$")
_THINKING = re.compile(r"<(/?)think(?:ing)?>", re.IGNORECASE)


def extract(text: str) -> str | None:
    """Extract the final answer from a model's turn.

    Args:
        text: text of the turn.

    Returns:
        The rest of the line behind the last ``FINAL ANSWER:``, or the first line below it that holds anything, up to
        TERMINATE or a special token. The label may be in any case, marked up or in full-width letters; a heading needs
        no colon. Surrounding quotes and emphasis are removed, and so is one final full stop unless it ends an
        abbreviation such as ``U.S.``. None if there is no label outside thinking, or nothing after it, and for a turn
        that calls a tool: the trainer, too, gives no reward for an answer beside a call.
    """
    if _calls_a_tool(text):
        return None
    said = without_thinking(text)
    start: int | None = None
    for label in _LABEL.finditer(said.translate(_FULL_WIDTH)):
        start = label.end()
    if start is None:
        return None
    rest = said[start:]
    begin = len(rest) - len(rest.lstrip(_WRAPPING + "\n\r\v\f"))
    answer = _END.split(rest[begin:], maxsplit=1)[0].strip(_WRAPPING)
    answer = _without_full_stop(answer).strip(_WRAPPING)
    return answer or None


def without_thinking(text: str) -> str:
    """Return a turn without what stands in ``<think>`` tags: to the end where they are not closed.

    A closing tag alone closes thinking that the chat template opened at the turn's start.
    """
    said: list[str] = []
    position, depth = 0, 0
    for tag in _THINKING.finditer(text):
        if depth == 0:
            said.append(text[position : tag.start()])
        if not tag[1]:
            depth = 1
        elif depth == 0:
            said.clear()
        else:
            depth = 0
        position = tag.end()
    if depth == 0:
        said.append(text[position:])
    return "".join(said)


def _calls_a_tool(text: str) -> bool:
    if CALL_TOKEN not in text:
        return False
    try:
        return bool(requested_calls(text))
    except CallError:
        return False


def _without_full_stop(answer: str) -> str:
    return answer if _ABBREVIATION.search(answer[-4:]) else answer.removesuffix(".")
