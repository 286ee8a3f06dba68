"""Evaluation of weights that others have published, under the prompt that they were trained with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import GenerationConfig, PreTrainedModel

from benchmarks.agent import FigureAgent
from iapo.rollout.legacy_turns import check_template, roll_out_legacy
from iapo.rollout.two_turn import Rollout
from iapo.types import Example


class ReleasedAgent(FigureAgent):
    """VTool-R1's released weights as an lmms-eval model: its prompt, its calls, this project's tools and scores."""

    def __init__(self, pretrained: str, *, template: str, min_pixels: int, max_pixels: int, **settings: Any) -> None:
        """Load the weights as they were downloaded.

        Args:
            pretrained: the downloaded directory, whose chat template is used.
            template: the prompt, with one place for the request.
            min_pixels: smaller images are enlarged to this area, pixels.
            max_pixels: larger images are reduced to this area, pixels.
            settings: as :class:`benchmarks.agent.FigureAgent` takes them.

        Raises:
            ValueError: for a template without a place for the request.
        """
        check_template(template)
        super().__init__(pretrained, pixels=(min_pixels, max_pixels), **settings)
        self._template = template
        if not isinstance(self.model, PreTrainedModel):
            return
        defaults = self.model.generation_config
        # Qwen's own defaults, which a checkpoint inherits, have a repetition penalty; no other row has one.
        self.model.generation_config = GenerationConfig(
            eos_token_id=defaults.eos_token_id, pad_token_id=defaults.pad_token_id
        )

    def _answer(self, examples: Sequence[Example]) -> list[Rollout]:
        return roll_out_legacy(
            self.model,
            self.processor,
            examples,
            template=self._template,
            turn_tokens=self.turn_tokens,
            image_help=self.image_help,
        )
