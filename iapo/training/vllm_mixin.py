"""Trainer mixin that makes TRL generate with vLLM correctly for a policy that reads images.

TRL hands vLLM prompts whose image tokens are already expanded, and vLLM expands them once more;
:class:`iapo.rollout.vllm.FigureGeneration` replaces TRL's generation class and corrects that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from iapo.rollout.vllm import FigureGeneration

if TYPE_CHECKING:
    from trl import GRPOTrainer as _Trainer
else:
    _Trainer = object


class VllmMixin(_Trainer):
    """Mixin to put in front of a ``GRPOTrainer`` of a Qwen2.5-VL; it does nothing without ``use_vllm``."""

    def __init__(self, *args: Any, turn_tokens: int | None = None, **kwargs: Any) -> None:
        """Create the trainer.

        Args:
            args: of the trainer.
            turn_tokens: longest turn; None allows as many tokens as all turns may have together, as TRL does.
            kwargs: of the trainer.
        """
        super().__init__(*args, **kwargs)
        if self.use_vllm:
            self.vllm_generation = FigureGeneration.taking_over(self.vllm_generation, turn_tokens)
