"""Rewards of the tool use that need no attribution: the baselines' and the controls'. Pure, in TRL's signature.

They read columns of the dataset and those that the trainer of this package adds to a step's rows:
``call_status`` (:data:`iapo.types.CallStatus`) and, for ``trm``, ``verdict``.
"""

from __future__ import annotations

import json
import math
import zlib
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from iapo.tools import parse_turn, tagged
from iapo.types import CallStatus, ToolCall


def failed_call_penalty(completions: Sequence[Any], call_status: Sequence[CallStatus], **_: Any) -> list[float]:
    """-1 where a call does not parse, validate or execute; 0 for a call that ran, and for no call (ToRL)."""
    return [-float(status in ("malformed", "failed")) for status in call_status]


def executed_call_bonus(completions: Sequence[Any], call_status: Sequence[CallStatus], **_: Any) -> list[float]:
    """1 where every call of the turn was carried out, whatever it shows."""
    return [float(status == "executed") for status in call_status]


def exact_match_reward(
    completions: Sequence[Sequence[dict[str, Any]]],
    focus_labels: Sequence[Sequence[str]],
    call_status: Sequence[CallStatus],
    **_: Any,
) -> list[float | None]:
    """1 where the first call was carried out and names just the annotated labels, in any order.

    Args:
        completions: each rollout's messages.
        focus_labels: the annotated argument (ReFocus's ``focus_areas``); where the data has none, no rollout of
            the prompt gets this reward (None).
        call_status: what became of the call; one on another family of labels fails.
    """
    return [
        float(status == "executed" and _names(messages, labels)) if labels else None
        for messages, labels, status in zip(completions, focus_labels, call_status, strict=True)
    ]


def verdict_reward(
    completions: Sequence[Any], verdict: Sequence[float], example_id: Sequence[str], **_: Any
) -> list[float]:
    """The verifier's verdict on the tool use, 0 or 1.

    Args:
        completions: one entry a rollout.
        verdict: NaN where the verifier gave none: such a rollout gets the mean of its group's others (0 where
            none has one), so that a broken verifier is no fault of the rollout.
        example_id: rollouts with the same one are a group.
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
    completions: Sequence[Sequence[dict[str, Any]]], focus_labels: Sequence[Sequence[str]], **_: Any
) -> list[float]:
    """-1 for a first call that names other labels than the annotated ones and for no call, 0 for the right ones.

    A control with the answer key: what a penalty that told right calls from wrong ones perfectly would do. Were
    no call free, a policy under this penalty alone would stop calling.
    """
    return [-float(not _names(messages, labels)) for messages, labels in zip(completions, focus_labels, strict=True)]


def constant_penalty(completions: Sequence[Any], prompts: Sequence[Any], **_: Any) -> list[float]:
    """The same number in [-1, 0] for every rollout of a prompt: a control that changes no advantage."""
    return [-zlib.crc32(str(_texts(prompt)).encode()) / 2**32 for prompt in prompts]


def _names(messages: Sequence[dict[str, Any]], labels: Sequence[str]) -> bool:
    """Whether a rollout's first call names these labels and no other."""
    calls = _first_calls(messages)
    return bool(calls) and set(calls[0].labels) == set(labels)


def _first_calls(messages: Sequence[dict[str, Any]]) -> list[ToolCall]:
    asked = messages[0].get("tool_calls") or [] if messages else []
    calls = [each["function"] for each in asked]
    return [call for function in calls for call in parse_turn(tagged(json.dumps(function, ensure_ascii=False))).calls]


def _texts(prompt: Any) -> list[str]:
    return [str(part.get("text")) for message in prompt for part in message["content"] if isinstance(part, dict)]
