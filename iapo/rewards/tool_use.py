"""Rewards for tool use that need no attribution: those of the baselines and of the controls.

Pure functions in TRL's reward signature, without torch. They read columns of the dataset and the columns that the
trainers in :mod:`iapo.training` add to a batch: ``call_status`` (:data:`iapo.types.CallStatus`) and, for ``trm``,
``verdict``. All lists have one entry per rollout.
"""

from __future__ import annotations

import math
import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from iapo.tools.parsing import CallError, checked_call
from iapo.types import CallStatus, ToolCall


def failed_call_penalty(completions: Sequence[object], call_status: Sequence[CallStatus], **_: object) -> list[float]:
    """Return -1 for a call that does not parse, validate or execute, and 0 for an executed or absent call.

    ToRL as its paper words it: a penalty for a call that fails. Not calling escapes it.
    """
    return [-float(status in ("malformed", "failed")) for status in call_status]


def unexecuted_call_penalty(
    completions: Sequence[object], call_status: Sequence[CallStatus], **_: object
) -> list[float]:
    """Return 0 if every call of the turn was executed, and -1 for a call that fails and for none.

    ToRL as its published code does it: a rollout without a call loses as much as one whose call fails.
    """
    return [-float(status != "executed") for status in call_status]


def executed_call_bonus(completions: Sequence[object], call_status: Sequence[CallStatus], **_: object) -> list[float]:
    """Return 1 if every call of the turn was executed, whatever it shows, else 0."""
    return [float(status == "executed") for status in call_status]


def exact_match_reward(
    completions: Sequence[Sequence[Mapping[str, Any]]],
    focus_labels: Sequence[Sequence[str]],
    call_status: Sequence[CallStatus],
    **_: object,
) -> list[float | None]:
    """Return 1 if the call was executed and names exactly the annotated labels, in any order, else 0.

    Args:
        completions: [B] messages of each rollout; its first call counts.
        focus_labels: [B] annotated labels (ReFocus's ``focus_areas``), empty where the data has no annotation.
        call_status: [B] what became of the tool turn; a call to a tool of another label family fails.

    Returns:
        [B] rewards; None for every rollout of a prompt without annotation.
    """
    return [
        float(_right(messages, labels, status)) if labels else None
        for messages, labels, status in zip(completions, focus_labels, call_status, strict=True)
    ]


def verdict_reward(
    completions: Sequence[object], verdict: Sequence[float], example_id: Sequence[str], **_: object
) -> list[float]:
    """Return the verifier's verdict on each tool use, 0 or 1.

    A rollout without a verdict gets the mean verdict of its group, so that a failure of the verifier is not held
    against the rollout; 0 if no rollout of the group has one.

    Args:
        completions: [B] unused.
        verdict: [B] verdicts, NaN where the verifier failed.
        example_id: [B] example ids; rollouts with the same id form a group.
    """
    known: dict[str, list[float]] = defaultdict(list)
    for name, value in zip(example_id, verdict, strict=True):
        if not math.isnan(value):
            known[name].append(value)
    return [
        sum(known[name]) / max(1, len(known[name])) if math.isnan(value) else value
        for name, value in zip(example_id, verdict, strict=True)
    ]


def wrong_call_penalty(
    completions: Sequence[Sequence[Mapping[str, Any]]],
    focus_labels: Sequence[Sequence[str]],
    call_status: Sequence[CallStatus],
    **_: object,
) -> list[float | None]:
    """Return 0 for an executed call that names exactly the annotated labels, -1/2 for another call, -1 for none.

    None where no label is annotated: nothing says there which call is right.

    This control uses the annotation: it shows what a penalty could achieve that knows how far a rollout is from the
    right call, as a teacher's attribution should. Half of the way is to call at all, whatever becomes of the call; one
    that does not parse is none.

    Args:
        completions: [B] messages of each rollout.
        focus_labels: [B] annotated labels.
        call_status: [B] what became of the tool turn.
    """
    return [
        0.0 - (0.5 if status in ("executed", "failed") else 1.0) * (not _right(messages, labels, status))
        if labels
        else None
        for messages, labels, status in zip(completions, focus_labels, call_status, strict=True)
    ]


def constant_penalty(
    completions: Sequence[object], prompts: Sequence[Sequence[Mapping[str, Any]]], **_: object
) -> list[float]:
    """Return one number in [-1, 0] per prompt, the same for all its rollouts.

    This control changes no advantage, because it is constant within a group.

    Args:
        completions: [B] unused.
        prompts: [B] messages of each prompt, whose text determines the number.
    """
    return [-zlib.crc32(str(_texts(prompt)).encode()) / 2**32 for prompt in prompts]


def _right(messages: Sequence[Mapping[str, Any]], labels: Sequence[str], status: CallStatus) -> bool:
    """Return whether a rollout's call was executed and its first call names exactly these labels."""
    calls = _first_calls(messages)
    return status == "executed" and bool(calls) and calls[0].names(labels)


def _first_calls(messages: Sequence[Mapping[str, Any]]) -> list[ToolCall]:
    """Return the calls of a rollout's first turn; none if one of them is malformed."""
    tool_calls = messages[0].get("tool_calls") or [] if messages else []
    functions = [tool_call["function"] for tool_call in tool_calls]
    try:
        return [checked_call(function["name"], function["arguments"]) for function in functions]
    except CallError:
        return []


def _texts(prompt: Sequence[Mapping[str, Any]]) -> list[str]:
    return [str(part.get("text")) for message in prompt for part in message["content"] if isinstance(part, dict)]
