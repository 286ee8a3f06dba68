"""Reward terms that count from a later step on, for training in two stages within one run."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from iapo.config.method_registry import RewardFunction


def counted_from(function: RewardFunction, first_step: int) -> RewardFunction:
    """Return a reward that is 0 before a step, and what the function says from that step on.

    Args:
        function: in TRL's reward signature; TRL logs the result under its name.
        first_step: number of optimizer steps taken before it counts.
    """

    @functools.wraps(function)
    def staged(completions: Sequence[object], *, trainer_state: Any, **columns: Any) -> Sequence[float | None]:
        if trainer_state.global_step < first_step:
            return [0.0] * len(completions)
        return function(completions=completions, trainer_state=trainer_state, **columns)

    return staged
