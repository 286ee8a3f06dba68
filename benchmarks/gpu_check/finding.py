"""What a check found: figures, the bounds that some of them must keep, or a reason why there is nothing to find."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Bound:
    """A figure and the most that it may be."""

    found: float
    at_most: float

    @property
    def kept(self) -> bool:
        """Whether the figure is a number and no larger."""
        return math.isfinite(self.found) and self.found <= self.at_most


@dataclass(frozen=True)
class Finding:
    """What a check that ran to its end found."""

    figures: dict[str, Any]
    """Name → number, text, or a table of these; the name says the unit."""
    bounds: dict[str, Bound] = field(default_factory=dict)
    """Name → figure and limit; the check fails where one is not kept."""


class SkippedCheck(Exception):
    """Raised by a check that this machine cannot run; the message is the reason."""
