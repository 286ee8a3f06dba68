"""Lengths of rollouts that an estimate reckons with, and what its formulas share (docs/estimate.md). No torch."""

from __future__ import annotations

from dataclasses import dataclass

from iapo.config.method import AttributionConfig
from iapo.config.sources import PretrainedConfig
from iapo.jobs.model_sizes import MERGED, TOKEN_PIXELS, ModelSize

GB = 1e9


_TYPICAL_TEXT, _LONGEST_TEXT = 900, 1500
"""Tool definitions, template and question in Qwen2.5's own tokens, with ReFocus's 6 labels of a chart and 20 of a table
(tests/models/test_true_vocabulary.py); and with room for tables of many rows."""


_IMAGE_TOKENS = 720
"""A figure. The sizes of 826 charts and 200 tables of ReFocus_Data, which github.com/Xxxxxsun/vision_agent_evolve lists
at 8282b3c, come to 563 (h_bar), 578 (v_bar) and 849 tokens (tables), and to 711 over what is trained on."""


_TURN_TOKENS = 256
"""Of a turn that may be longer."""


STREAMS = 5
"""A call's tokens, and a tangent of each of the four blocks through all of them."""


@dataclass(frozen=True)
class Lengths:
    """Tokens of one rollout: a prompt with a figure, a turn, the edited figure, another turn."""

    image: int
    """Of each of the two figures."""
    turn: int
    completion: int
    """Both turns and the edited figure."""
    text: int = _LONGEST_TEXT
    """Of the prompt."""

    @property
    def prompt(self) -> int:
        """Text and figure."""
        return self.text + self.image

    @property
    def sequence(self) -> int:
        """All."""
        return self.prompt + self.completion

    @property
    def attributed(self) -> int:
        """What one point of an attribution passes through the model: prompt and first turn."""
        return self.prompt + self.turn

    @property
    def moving(self) -> int:
        """Tokens of a prompt and tangents of its blocks, each from its first token on: the tools' from the start, the
        image's from behind them, those of the few words that follow not counted."""
        return 2 * self.prompt + self.image

    @property
    def patches(self) -> int:
        """Of both figures."""
        return 2 * MERGED * self.image


@dataclass(frozen=True)
class Distillation:
    """First turns whose loss a method takes from the teacher, each with a prompt of its own."""

    calls: int = 0
    """The teacher's own ones of a prompt, at most, all of them right; 0 where it is every rollout's first turn."""
    teacher: ModelSize | None = None
    """That says its probabilities of them."""

    def turns(self, groups: float, rollouts: float) -> float:
        """First turns of some groups, of which some rollouts are at hand.

        In a step these are all. In a pass of a few rollouts, each may be the one that its group's calls go with.
        """
        return min(groups, rollouts) * self.calls if self.calls else rollouts


def typical_lengths(model: PretrainedConfig, turn_tokens: int) -> Lengths:
    """What time is reckoned with."""
    image = min(max(_IMAGE_TOKENS, model.min_pixels // TOKEN_PIXELS), model.max_pixels // TOKEN_PIXELS)
    turn = min(turn_tokens, _TURN_TOKENS)
    return Lengths(image, turn, 2 * turn + image, _TYPICAL_TEXT)


def longest_lengths(model: PretrainedConfig, turn_tokens: int, completion: int | None = None) -> Lengths:
    """What memory is reckoned with: the largest figure and turns up to their limit."""
    image = model.max_pixels // TOKEN_PIXELS
    both = 2 * turn_tokens + image
    return Lengths(image, turn_tokens, min(completion or both, both))


def by_tangents(config: AttributionConfig) -> bool:
    """Whether calls that share a prompt are attributed by a tangent a block and not by backward passes."""
    return config.method == "integrated_gradients" and config.blocks == "four_block" and not config.magnitudes


def kv_bytes(size: ModelSize) -> float:
    """Of one token, in bfloat16."""
    return 4 * size.kv_width * size.layers
