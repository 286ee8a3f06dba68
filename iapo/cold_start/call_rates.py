"""How often a start's sampled calls are right: the sparsity that reinforcement learning begins with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from iapo.rollout.call_sampling import SampledCall


class CallRates(TypedDict):
    """Rates over sampled first turns; None where none was sampled."""

    prompts: int
    """Prompts sampled for."""
    rollouts: int
    """Turns sampled per prompt."""
    call_rate: float | None
    """Share of the turns that hold a well-formed call."""
    right_rate: float | None
    """Share of the turns whose call names exactly the annotated labels."""
    groups_with_right: float | None
    """Share of the prompts with at least one such turn."""


def call_rates(calls: Sequence[SampledCall], *, prompts: int, rollouts: int) -> CallRates:
    """Return how often the turns sampled from a policy hold a call, and a right one.

    Args:
        calls: the turns that hold a call, from :func:`iapo.rollout.call_sampling.sample_calls`.
        prompts: number of prompts sampled for, those without any call included.
        rollouts: turns sampled per prompt.
    """
    turns = prompts * rollouts
    right = [call.example_id for call in calls if call.correct]
    return {
        "prompts": prompts,
        "rollouts": rollouts,
        "call_rate": len(calls) / turns if turns else None,
        "right_rate": len(right) / turns if turns else None,
        "groups_with_right": len(set(right)) / prompts if turns else None,
    }
