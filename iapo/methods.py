"""What a method is. No torch, so that the workflow can plan from the list of methods."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from iapo.config import Config

RewardFunction = Callable[..., list[float]]
"""In TRL's reward signature: lists in, one number a rollout out."""


@dataclass(frozen=True)
class RewardTerm:
    """One summand of a method's reward."""

    function: RewardFunction
    weight: float
    """What it is multiplied by."""


@dataclass(frozen=True)
class Method:
    """What sets one method apart from the others."""

    name: str
    summary: str
    """One line with its source."""
    rewards: Callable[[Config], Sequence[RewardTerm]]
    """Imports its reward functions when called, since those need torch."""
    uses_teacher: bool = False
    """Whether its rewards compare attributions with the cached teacher's."""


def with_settings(function: RewardFunction, **settings: object) -> RewardFunction:
    """A reward function with keyword settings bound; TRL logs it under the original's name."""
    return functools.update_wrapper(functools.partial(function, **settings), function)
