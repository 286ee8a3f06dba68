"""Candidate calls: for each prompt, the calls whose attributions the teacher's cache holds.

They are the distinct calls that the teacher itself samples, and legal calls close to its greedy one, so that most calls
of a student find an exact row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from iapo.config.schema import TeacherConfig
from iapo.tools.parsing import call_spans, canonical, parse_turn, render_call
from iapo.tools.registry import tools_for
from iapo.types import Example, ToolCall

Source = Literal["sampled", "enumerated", "filled"]
"""Origin of a call: sampled from the teacher, a legal variation of its greedy call, or made by a student."""


@dataclass(frozen=True)
class Candidate:
    """A call to attribute, in the turn that makes it."""

    call: ToolCall
    text: str
    """The whole turn: the teacher's text before its call, and the call."""
    source: Source
    answer: str | None = None
    """What the teacher says after a call of its own that was carried out."""


def candidates(example: Example, texts: Sequence[str], config: TeacherConfig) -> list[Candidate]:
    """Return the distinct calls to attribute for one prompt; none if the teacher never makes a valid call.

    Args:
        example: the example of the prompt.
        texts: the teacher's turns, the greedy one first.
        config: which legal calls are added.

    Returns:
        The sampled calls in order of appearance, then the enumerated ones.
    """
    found: dict[str, Candidate] = {}
    for text in texts:
        for call in parse_turn(text).calls[:1]:
            found.setdefault(canonical(call), Candidate(call, text_before_call(text) + render_call(call), "sampled"))
    if not found:
        return []
    first = next(iter(found.values()))
    for call in legal_calls(example, first.call, config):
        found.setdefault(
            canonical(call), Candidate(call, text_before_call(first.text) + render_call(call), "enumerated")
        )
    return list(found.values())


def legal_calls(example: Example, near: ToolCall, config: TeacherConfig) -> list[ToolCall]:
    """Return variations of a call that are legal for the figure.

    Args:
        example: the example, whose figure decides what is legal.
        near: the call to vary.
        config: ``config.enumerated`` says which variations: every tool with the call's labels (``tools``), its tool
            with every single label (``labels``), or every tool with both (``all``).
    """
    tools = [tool.name for tool in tools_for(example.figure.kind)]
    families = {tool.name: tool.family for tool in tools_for(example.figure.kind)}
    calls: list[ToolCall] = []
    if config.enumerated in ("tools", "all"):
        calls += [ToolCall(name, near.labels) for name in tools]
    if config.enumerated in ("labels", "all"):
        names = tools if config.enumerated == "all" else [near.name]
        for name in names:
            labels = example.figure.boxes.get(families.get(name, ""), {})  # type: ignore[call-overload]
            calls += [ToolCall(name, (label,)) for label in labels]
    return calls


def text_before_call(text: str) -> str:
    """Return what a turn says before its first call, thoughts included."""
    return text[: next(iter(call_spans(text)), (len(text), 0))[0]]
