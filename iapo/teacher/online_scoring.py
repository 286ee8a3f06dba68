"""Block sums of a policy's sampled calls, computed by running student and teacher on them, without the cache.

This is the reward that the cache approximates, so the audit compares the cached reward with it.

D: distinct turns. N: sampled calls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from iapo.alignment.block_scores import Sums, attributed_sums
from iapo.alignment.penalty import penalties_of_calls
from iapo.attribution.batch import example_inputs
from iapo.attribution.scoring import score_turns
from iapo.config.method import AlignmentConfig, AttributionConfig, Partition
from iapo.data.prompts import prompt_messages
from iapo.models.interfaces import Processor, QwenVL
from iapo.rollout.call_sampling import SampledCall
from iapo.rollout.encoding import encode_prompt
from iapo.rollout.turns import PromptInputs, ToolTurn, distinct_turns, turn_ids
from iapo.types import BlockAttribution, Example


@dataclass(frozen=True)
class LiveSums:
    """One model's attribution of a set of sampled calls, in which equal turns are attributed once."""

    turns: list[ToolTurn]
    """[D] the distinct turns."""
    result: BlockAttribution
    """Attribution of the distinct turns."""
    place: list[int]
    """[N] index of each sampled call's turn among the distinct ones."""

    def sums(self, config: AlignmentConfig) -> list[Sums]:
        """Return [N] the block sums that the penalty compares.

        Args:
            config: aggregation, and whether a call is contrasted with the others of its prompt.
        """
        distinct = attributed_sums(self.turns, self.result, config)
        return [distinct[i] for i in self.place]


def score_calls(
    model: QwenVL,
    processor: Processor,
    examples: Mapping[str, Example],
    calls: Sequence[SampledCall],
    config: AttributionConfig,
) -> LiveSums:
    """Attribute sampled calls with a model, whichever policy made them.

    Args:
        model: student or teacher, in eval mode.
        processor: its processor.
        examples: example id → example.
        calls: [N] the calls, at least one.
        config: attribution settings.

    Raises:
        ValueError: if there are no calls.
    """
    if not calls:
        raise ValueError("found no sampled call to score; expected a policy that calls tools at least once")
    turns, place = distinct_turns(turns_of(processor, examples, calls, config.blocks))
    return LiveSums(turns, score_turns(model, processor.tokenizer, turns, config), place)


def turns_of(
    processor: Processor,
    examples: Mapping[str, Example],
    calls: Sequence[SampledCall],
    partition: Partition = "four_block",
) -> list[ToolTurn]:
    """Return the turn of each call [N], in the form in which the trainer records them.

    Equal prompts share one :class:`PromptInputs`; equal calls are repeated.

    Args:
        processor: the model's processor.
        examples: example id → example.
        calls: [N] the calls.
        partition: how a prompt is divided into blocks.
    """
    prompts: dict[str, PromptInputs] = {}
    for example_id in dict.fromkeys(call.example_id for call in calls):
        example = examples[example_id]
        encoded = encode_prompt(processor, prompt_messages(example), example.figure.kind)
        prompts[example_id] = example_inputs(processor, example, encoded, partition)
    return [
        ToolTurn(prompts[call.example_id], turn_ids(processor.tokenizer, call.text), call.text, [call.call])
        for call in calls
    ]


def live_penalties(student: LiveSums, teacher: LiveSums, config: AlignmentConfig) -> list[float]:
    """Return [N] the penalty of each sampled call with the teacher run on it.

    Args:
        student: the student's attribution of the calls.
        teacher: the teacher's attribution of the same calls.
        config: how the two are compared.
    """
    penalties = penalties_of_calls(student.sums(config), teacher.sums(config), config)
    return [penalty for penalty in penalties if penalty is not None]
