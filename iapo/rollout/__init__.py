"""Rollouts: the policy reads a question, calls a tool that edits the figure, and answers.

Evaluation, the teacher and TRL's training loop use the same environments and feed the model the same token ids.
"""

from iapo.rollout.encoding import EncodedPrompt, encode_prompt
from iapo.rollout.environment import ENVIRONMENTS, FigureEnvironment
from iapo.rollout.turns import PromptInputs, ToolTurn, prompt_key
from iapo.rollout.two_turn import Rollout, roll_out

__all__ = [
    "ENVIRONMENTS",
    "EncodedPrompt",
    "FigureEnvironment",
    "PromptInputs",
    "Rollout",
    "ToolTurn",
    "encode_prompt",
    "prompt_key",
    "roll_out",
]
