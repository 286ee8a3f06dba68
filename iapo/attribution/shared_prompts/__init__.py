"""Faster attribution of several calls on the same prompt: the prompt passes the model once per path point.

GRPO samples a group of rollouts from each prompt, so most rows of a batch share one. The engines here compute what
:class:`iapo.attribution.rows.SeparateRows` computes, to rounding: ``forward_engine`` per block, with forward-mode
derivatives, and ``reverse_engine`` per token, with backpropagation.
"""

from iapo.attribution.shared_prompts.prompt_groups import SharedRows, shared_prompts

__all__ = ["SharedRows", "shared_prompts"]
