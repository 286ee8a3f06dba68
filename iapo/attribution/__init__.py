"""Attribution: how much each block of the prompt contributed to the log-probability of a tool call.

Integrated gradients over four blocks (plain text, request, image, tool definitions) or a finer partition.
:func:`attribute` is the whole interface; :func:`calls_batch` and :func:`score_turns` prepare its input from rollouts.
"""

from iapo.attribution.api import attribute
from iapo.attribution.batch import calls_batch
from iapo.attribution.scoring import score_turns

__all__ = ["attribute", "calls_batch", "score_turns"]
