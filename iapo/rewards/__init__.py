"""Reward functions for the final answer, for tool use, and for agreement with the teacher's attribution.

Pure functions in TRL's reward signature, which any ``GRPOTrainer`` can use.
"""

from typing import TYPE_CHECKING

from iapo.rewards.answers.extraction import extract
from iapo.rewards.answers.matching import score
from iapo.rewards.outcome import outcome_reward

if TYPE_CHECKING:
    from iapo.rewards.alignment import alignment_reward

__all__ = ["alignment_reward", "extract", "outcome_reward", "score"]


def __getattr__(name: str) -> object:
    # torch is loaded when one of these is asked for, so that planning and tables, which need others, stay without it.
    if name == "alignment_reward":
        from iapo.rewards.alignment import alignment_reward

        return alignment_reward
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
