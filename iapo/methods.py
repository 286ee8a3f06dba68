"""What a method is. No torch, so that the workflow can plan from the list of methods."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from iapo.config import Config, with_overrides

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
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What it changes in `train`, `attribution` and `alignment`, nested as in a config file."""


def resolve(name: str, config: Config, methods: Mapping[str, Method]) -> tuple[Method, Config]:
    """A method of the run by name, and the configuration that it is trained with.

    Args:
        name: of a method or of a variant in ``config``.
        config: of the run.
        methods: all of them, by name.

    Raises:
        ConfigError: where the method or the variant sets what it cannot.
        KeyError: for an unknown name.
    """
    variant = config.variants.get(name)
    method = methods[variant.method if variant else name]
    settled = with_overrides(config, method.settings, method.name) if method.settings else config
    if variant and variant.settings:
        settled = with_overrides(settled, variant.settings, name)
    return replace(method, name=name), settled


def with_settings(function: RewardFunction, **settings: object) -> RewardFunction:
    """A reward function with keyword settings bound; TRL logs it under the original's name."""
    return functools.update_wrapper(functools.partial(function, **settings), function)
