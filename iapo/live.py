"""Block sums of a policy's sampled calls, by running the student and the teachers on them: no cache.

What the cached reward stands in for, and so what it is held against.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from iapo.block_sums import Sums, attributed_sums
from iapo.config import AlignmentConfig, AttributionConfig
from iapo.probe import SampledCall
from iapo.prompts import prompt_messages
from iapo.rewards import penalties_of_calls
from iapo.rollout import encode_prompt
from iapo.teacher import score_turns, turn_ids
from iapo.turns import PromptInputs, ToolTurn, example_inputs
from iapo.types import BlockAttribution, Example


@dataclass(frozen=True)
class LiveSums:
    """One model's attribution of some sampled calls, equal turns once."""

    turns: list[ToolTurn]
    """[D] distinct."""
    result: BlockAttribution
    """Of the distinct turns."""
    place: list[int]
    """[N] which distinct turn each sampled call is."""

    def sums(self, config: AlignmentConfig) -> list[Sums]:
        """[N] what a penalty compares."""
        distinct = attributed_sums(self.turns, self.result, config)
        return [distinct[i] for i in self.place]


def score_calls(
    model: Any, processor: Any, examples: Mapping[str, Example], calls: Sequence[SampledCall], config: AttributionConfig
) -> LiveSums:
    """Attribute the calls as the model itself would have made them.

    Args:
        model: student or teacher, in eval mode.
        processor: its processor.
        examples: example id → prompt.
        calls: [N] at least one.
        config: the attribution.
    """
    if not calls:
        raise ValueError("found no sampled call to score; expected a policy that calls tools at least once")
    prompts: dict[str, PromptInputs] = {}
    place: dict[tuple[str, str], int] = {}
    turns: list[ToolTurn] = []
    for call in calls:
        if call.example_id not in prompts:
            example = examples[call.example_id]
            encoded = encode_prompt(processor, prompt_messages(example), example.figure.kind)
            prompts[call.example_id] = example_inputs(processor, example, encoded, config.blocks)
        if (call.example_id, call.text) not in place:
            place[call.example_id, call.text] = len(turns)
            ids = turn_ids(processor.tokenizer, call.text)
            turns.append(ToolTurn(prompts[call.example_id], ids, call.text, [call.call]))
    result = score_turns(model, processor.tokenizer, turns, config)
    return LiveSums(turns, result, [place[call.example_id, call.text] for call in calls])


def live_penalties(student: LiveSums, teacher: LiveSums, config: AlignmentConfig) -> list[float]:
    """[N] the penalty that each sampled call would get from a teacher at hand."""
    found = penalties_of_calls(student.sums(config), teacher.sums(config), config)
    return [penalty for penalty in found if penalty is not None]
