"""Block sums of a policy's sampled calls, by running the student and the teachers on them: no cache.

What the cached reward stands in for, and so what it is held against.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from iapo.block_sums import Sums, attributed_sums
from iapo.config_method import AlignmentConfig, AttributionConfig, Partition
from iapo.probe import SampledCall
from iapo.prompts import prompt_messages
from iapo.rewards import penalties_of_calls
from iapo.rollout import encode_prompt
from iapo.teacher import score_turns, turn_ids
from iapo.turns import PromptInputs, ToolTurn, distinct_turns, example_inputs
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
    turns, place = distinct_turns(turns_of(processor, examples, calls, config.blocks))
    return LiveSums(turns, score_turns(model, processor.tokenizer, turns, config), place)


def turns_of(
    processor: Any, examples: Mapping[str, Example], calls: Sequence[SampledCall], partition: Partition = "prit"
) -> list[ToolTurn]:
    """One turn a call, as the trainer holds them: equal prompts are one object, equal calls are not."""
    prompts: dict[str, PromptInputs] = {}
    for name in dict.fromkeys(call.example_id for call in calls):
        encoded = encode_prompt(processor, prompt_messages(examples[name]), examples[name].figure.kind)
        prompts[name] = example_inputs(processor, examples[name], encoded, partition)
    return [
        ToolTurn(prompts[call.example_id], turn_ids(processor.tokenizer, call.text), call.text, [call.call])
        for call in calls
    ]


def live_penalties(student: LiveSums, teacher: LiveSums, config: AlignmentConfig) -> list[float]:
    """[N] the penalty that each sampled call would get from a teacher at hand."""
    found = penalties_of_calls(student.sums(config), teacher.sums(config), config)
    return [penalty for penalty in found if penalty is not None]
