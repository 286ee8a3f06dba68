"""The outcome reward: whether a rollout's final answer is right.

It uses the same answer extraction and matching as the evaluation. Pure functions in TRL's reward signature, without
torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from iapo.rewards.answers.extraction import extract
from iapo.rewards.answers.matching import score
from iapo.types import Metric


def outcome_reward(
    completions: Sequence[Sequence[Mapping[str, Any]]],
    answer: Sequence[str],
    metric: Sequence[Metric],
    **_: object,
) -> list[float]:
    """Return 1.0 for each rollout with the right final answer and 0.0 for each other.

    Args:
        completions: [B] messages of each rollout.
        answer: [B] gold answers.
        metric: [B] how to match each answer.

    Returns:
        [B] scores; 0.0 also for a rollout that ended in a tool call or a tool response.

    Example:
        >>> done = [[{"role": "assistant", "content": "FINAL ANSWER: 67"}]]
        >>> outcome_reward(done, ["67"], ["exact"])
        [1.0]
    """
    return [
        score(extract(final_text(messages)), gold, answer_metric)
        for messages, gold, answer_metric in zip(completions, answer, metric, strict=True)
    ]


def final_text(messages: Sequence[Mapping[str, Any]]) -> str:
    """Return the text of the assistant's last turn; empty if the rollout ended in a tool call or a tool response."""
    last = messages[-1] if messages else {}
    if last.get("role") != "assistant" or last.get("tool_calls"):
        return ""
    content = last.get("content") or ""
    if isinstance(content, str):
        return content
    return "".join(part.get("text") or "" for part in content)
