"""Published weights of the compared methods' rewards, and which of them a run has changed.

A table that compares with a published method must say where its own weight is another one, chosen by us.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from iapo.config.schema import Config


@dataclass(frozen=True)
class PublishedWeight:
    """A weight as its authors give it, on our scale: an outcome of 0 or 1."""

    value: float
    source: str
    """Where it stands, and what was converted."""


FAILED_CALL = PublishedWeight(0.25, "ToRL, arXiv 2503.23383: .5 on rewards of ±1, off in its default runs")


def changed_weights(config: Config) -> list[str]:
    """Return one line for each configured weight that is not the published one.

    Args:
        config: of the run, read at ``rewards.failed_call``.

    Example:
        >>> from iapo.config.schema import Config, RewardsConfig
        >>> changed_weights(Config(profile="mini", rewards=RewardsConfig(failed_call=0.25)))
        []
    """
    found = config.rewards.failed_call
    if found == FAILED_CALL.value:
        return []
    return [f"rewards.failed_call: {found:g}, set by hand; published {FAILED_CALL.value:g} ({FAILED_CALL.source})"]
