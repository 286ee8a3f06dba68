"""vLLM's probabilities of a rollout held against the policy's own, without a forward pass for it.

vLLM's kernels give a turn slightly other probabilities than the policy's layers, so TRL weighs each rollout by their
ratio. It takes the policy's ones from a forward pass of all rollouts before the update. Where every rollout is trained
on once, by the very weights that wrote it, the update's own pass has the same numbers, and one forward pass of five is
spared. The overridden methods are private to TRL, so its version is pinned and a test asserts their signatures.

B: rollouts of a micro-batch. C: tokens of the completion, padded.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from iapo.training.rollout_recorder import TurnMixin

if TYPE_CHECKING:
    from trl import GRPOTrainer as _Trainer
else:
    _Trainer = object


class SamplingRatioMixin(TurnMixin, _Trainer):
    """Trainer mixin that takes the ratio's probabilities from the update's own pass; does nothing without vLLM."""

    _weighed: dict[str, Any] | None = None
    """The micro-batch that still lacks its ratio."""

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        if not self._is_trained_as_written():
            return super()._generate_and_score_completions(inputs)
        # TRL takes its pass, and makes the ratio, where this says so; vLLM's log-probabilities it keeps all the same.
        self.vllm_importance_sampling_correction = False
        try:
            return super()._generate_and_score_completions(inputs)
        finally:
            self.vllm_importance_sampling_correction = True

    def _is_trained_as_written(self) -> bool:
        """Whether TRL is to weigh rollouts, and the weights that wrote them are those that train on them."""
        arguments: Any = self.args
        every = arguments.steps_per_generation * self.num_iterations
        one_update = arguments.gradient_accumulation_steps % every == 0
        return bool(self.use_vllm and self.vllm_importance_sampling_correction and one_update)

    def _compute_loss(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        self._weighed = inputs if self._is_trained_as_written() else None
        return super()._compute_loss(model, inputs)

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        found: tuple[Any, ...] = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        if self._weighed is not None:
            self._weigh(found[0].detach(), self._weighed)
            self._weighed = None
        return found

    def _weigh(self, policy: Tensor, inputs: dict[str, Any]) -> None:
        """Give a micro-batch the ratio that its loss is multiplied by."""
        # All that the policy wrote, also where the loss takes one turn alone.
        mask = inputs["completion_mask"] * inputs.get("written_mask", inputs.get("tool_mask", 1))
        sampler = inputs["sampling_per_token_logps"]
        inputs["importance_sampling_ratio"] = sampling_ratio(
            policy,
            sampler,
            mask,
            self.vllm_importance_sampling_mode,
            (self.vllm_importance_sampling_clip_min, self.vllm_importance_sampling_clip_max),
        )
        apart = ((policy - sampler).abs().nan_to_num(0.0) * mask).amax().item()
        # The largest of a step, in each process.
        of_step = self._recorded["sampling/logp_difference_max"]
        of_step[:] = [max([*of_step, apart])]
        self.record("sampling/ratio", inputs["importance_sampling_ratio"].mean().item())


def sampling_ratio(
    policy: Tensor, sampler: Tensor, mask: Tensor, mode: str, bounds: tuple[float | None, float | None]
) -> Tensor:
    """Return the ratio of the policy's to the sampler's probability, as TRL makes it.

    Args:
        policy: [B, C] log-probabilities.
        sampler: [B, C] log-probabilities; nan where vLLM gave none, which counts as the policy's.
        mask: [B, C] 1 for the tokens that the policy wrote.
        mode: TRL's ``vllm_importance_sampling_mode``: of each token or of the whole sequence, and whether what lies
            outside the bounds becomes 0 (mask) or the bound (truncate).
        bounds: smallest and largest ratio; None for no bound.

    Returns:
        [B, C] of tokens, or [B, 1] of sequences.
    """
    level, _, beyond = mode.partition("_")
    difference = ((policy - sampler) * mask).nan_to_num(nan=0.0)
    ratio = (difference.sum(-1, keepdim=True) if level == "sequence" else difference).exp()
    least, most = (0.0 if bounds[0] is None else bounds[0]), (math.inf if bounds[1] is None else bounds[1])
    if beyond == "truncate":
        return ratio.clamp(least, most)
    return torch.where((ratio < least) | (ratio > most), 0.0, ratio)
