"""What a method is. No torch, so that the workflow can plan from the list of methods."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from iapo.config.method import RewardForm
from iapo.config.schema import Config, with_overrides

RewardFunction = Callable[..., Sequence[float | None]]
"""In TRL's reward signature: lists in, one number a rollout out, or None where it says nothing."""


@dataclass(frozen=True)
class RewardTerm:
    """One summand of a method's reward."""

    function: RewardFunction
    weight: float
    """What it is multiplied by."""
    form: RewardForm = "reward"
    """Where it enters; see :func:`iapo.rewards.advantages.added_advantage`."""


@dataclass(frozen=True)
class Method:
    """What sets one method apart from the others."""

    name: str
    summary: str
    """One line with its source."""
    rewards: Callable[[Config], Sequence[RewardTerm]]
    """Called when a policy trains; what needs torch is imported in it."""
    trainer: str | None = None
    """``module:class`` of the trainer that fills the columns which the rewards read, imported when a policy trains;
    None is the shared one (:class:`iapo.training.trainer.FigureTrainer`)."""
    reads: tuple[str, ...] = ()
    """Dotted keys of the settings that the rewards read besides `weight`; see :mod:`iapo.config.declared`."""
    uses_teacher: bool = False
    """Whether its rewards compare attributions with the cached teacher's."""
    uses_verifier: bool = False
    """Whether its rewards read a verifier's verdicts."""
    distils: Literal["calls", "policy"] | None = None
    """What its loss takes from the teacher besides the rewards: the calls in its cache, or its probabilities."""
    weight: str | None = None
    """Dotted key of the one number that is chosen on the dev split; None where there is nothing to choose."""
    tuned_as: str | None = None
    """The method whose choice of the weight it takes, for controls, which must weigh as much as what they control."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What it changes in `train`, `attribution`, `alignment` and `rewards`, nested as in a config file."""

    @property
    def reads_cache(self) -> bool:
        """Whether its training reads the teacher's cache: attributions or calls."""
        return self.uses_teacher or self.distils == "calls"

    def asks_teacher(self, config: Config) -> bool:
        """Whether the teacher's own weights take part in its training, as a judge or for their probabilities."""
        return self.distils == "policy" or (self.uses_verifier and config.verifier.kind == "teacher")

    @property
    def settings_read(self) -> tuple[str, ...]:
        """Dotted keys of all settings that a training run of this method reads."""
        sections = ["device", "hardware", "train"]
        if self.uses_teacher:
            sections += ["attribution", "alignment"]
        if self.uses_verifier:
            sections += ["verifier", "evaluation.turn_tokens"]
        own = [*self.reads, *([self.weight] if self.weight else [])]
        return (*sections, *(key for key in own if key.partition(".")[0] not in sections))


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
    variant = config.all_variants.get(name)
    method = methods[variant.method if variant else name]
    resolved = with_overrides(config, method.settings, method.name) if method.settings else config
    if variant and variant.settings:
        resolved = with_overrides(resolved, variant.settings, name)
    if variant and variant.steps_factor != 1:
        steps = max(1, round(variant.steps_factor * resolved.train.steps))
        resolved = with_overrides(resolved, {"train": {"steps": steps}}, name)
    return replace(method, name=name), resolved


def tuned_method(name: str, config: Config, methods: Mapping[str, Method]) -> str | None:
    """The method whose trials on the dev split choose this one's weight; None where nothing is to be chosen.

    A variant takes its method's choice, unless it sets the weight itself.
    """
    variant = config.all_variants.get(name)
    method = methods[variant.method if variant else name]
    if method.weight is None or len(config.tuning.factors) == 1:
        return None
    section, key = method.weight.split(".")
    if variant and key in variant.settings.get(section, {}):
        return None
    return method.tuned_as or method.name


def with_settings(function: RewardFunction, **settings: object) -> RewardFunction:
    """A reward function with keyword settings bound; TRL logs it under the original's name."""
    return functools.update_wrapper(functools.partial(function, **settings), function)
