"""The outcome of a rollout's tool call, as training and evaluation record it.

Both classify from the first turn's text and its environment, so their rates of failed calls can be compared.
"""

from __future__ import annotations

from iapo.rollout.environment import attempts_call
from iapo.tools.parsing import parse_turn
from iapo.types import CallStatus


def call_status(text: str, succeeded: bool) -> CallStatus:
    """Classify the first turn of a rollout.

    Args:
        text: the text of the turn.
        succeeded: whether the environment carried out at least one call and none failed.

    Returns:
        ``none`` without a call, ``malformed`` if a call does not parse, else ``executed`` or ``failed``.
    """
    if not attempts_call(text):
        return "none"
    if parse_turn(text).error is not None:
        return "malformed"
    return "executed" if succeeded else "failed"
