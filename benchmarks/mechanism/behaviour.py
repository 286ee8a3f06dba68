"""Behaviour of a policy when prompts contain hints: does its call follow the request or the hint?

Reliance on a block is measured by editing the block and checking whether the call changes; attribution by the block's
share in the attribution of the call. The study asks whether the two agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from benchmarks.mechanism.answers import BATCH_SIZE, Record, answer_record
from iapo.alignment.divergence import distribution
from iapo.attribution.batch import example_inputs
from iapo.attribution.scoring import score_turns
from iapo.config.schema import AttributionConfig
from iapo.data.mini_world.hints import figure_labels, hint_of, with_hint
from iapo.data.prompts import open_image, prompt_messages
from iapo.models.interfaces import Processor, QwenVL
from iapo.rollout.encoding import encode_examples, encode_prompt
from iapo.rollout.generation import generate_turn, turn_text
from iapo.rollout.turns import ToolTurn, turn_ids
from iapo.rollout.two_turn import roll_out
from iapo.tools.parsing import parse_turn
from iapo.types import BLOCKS, Example

_ATTRIBUTION = AttributionConfig(tolerance=1e9)
"""Attribution to the same four blocks in every condition, whatever it was trained with."""


def measure(model: QwenVL, processor: Processor, examples: Sequence[Example], *, turn_tokens: int) -> list[Record]:
    """Roll out the policy greedily on test questions and on edited versions of them.

    Args:
        model: the policy in eval mode.
        processor: its processor.
        examples: test questions with hints.
        turn_tokens: token limit of a turn.

    Returns:
        One record per question: that of :func:`benchmarks.mechanism.answers.answer_record`, ``hint_misleads``,
        ``follows_request`` and ``follows_hint`` (whether the call names the requested or the hinted label),
        ``flips_with_hint`` and ``flips_with_request`` (whether it names the new label after the hint or the request
        was edited), and ``share_P`` to ``share_T`` of the call's attribution. Everything about the call is None where
        there is none.
    """
    records: list[Record] = []
    for start in range(0, len(examples), BATCH_SIZE):
        chunk = examples[start : start + BATCH_SIZE]
        others = [_other_label(example) for example in chunk]
        rollouts = roll_out(model, processor, chunk, turn_tokens=turn_tokens)
        hinted = [with_hint(example, other) for example, other in zip(chunk, others, strict=True)]
        asked = [_with_request_for(example, other) for example, other in zip(chunk, others, strict=True)]
        swapped_hint = called_labels(model, processor, hinted, turn_tokens)
        swapped_request = called_labels(model, processor, asked, turn_tokens)
        shares = _shares(model, processor, chunk, [rollout.texts[0] for rollout in rollouts])
        for i, (example, rollout) in enumerate(zip(chunk, rollouts, strict=True)):
            label = rollout.calls[0].labels[:1] if rollout.calls else None
            right, hint = example.focus_labels[0], hint_of(example)
            record: Record = answer_record(example, rollout) | {
                "hint_misleads": hint != right,
                "follows_request": None if label is None else label == (right,),
                "follows_hint": None if label is None else label == (hint,),
                "flips_with_hint": None if label is None else swapped_hint[i] == others[i],
                "flips_with_request": None if label is None else swapped_request[i] == others[i],
            }
            records.append(record | {f"share_{name}": None for name in BLOCKS} | shares.get(i, {}))
    return records


def called_labels(
    model: QwenVL, processor: Processor, examples: Sequence[Example], turn_tokens: int
) -> list[str | None]:
    """Return the first label of each prompt's greedy call; None without a valid call."""
    prompts = encode_examples(processor, examples, [open_image(example) for example in examples])
    turns = generate_turn(model, processor, prompts, max_tokens=turn_tokens)
    calls = [parse_turn(turn_text(processor.tokenizer, turn)).calls for turn in turns]
    return [found[0].labels[0] if found and found[0].labels else None for found in calls]


def _other_label(example: Example) -> str:
    """A label of the figure that is neither requested nor hinted at."""
    taken = {example.focus_labels[0], hint_of(example)}
    return next(label for label in figure_labels(example) if label not in taken)


def _with_request_for(example: Example, label: str) -> Example:
    """The example with its request changed to ask for another label."""
    return replace(example, request=example.request.replace(example.focus_labels[0], label))


def _shares(
    model: QwenVL, processor: Processor, examples: Sequence[Example], texts: Sequence[str]
) -> dict[int, dict[str, float]]:
    """Position → block shares of the call, for turns with a call."""
    called = [i for i, text in enumerate(texts) if parse_turn(text).calls]
    turns = []
    for i in called:
        encoded = encode_prompt(processor, prompt_messages(examples[i]), examples[i].figure.kind)
        ids = turn_ids(processor.tokenizer, texts[i])
        turns.append(ToolTurn(example_inputs(processor, examples[i], encoded), ids, texts[i]))
    if not turns:
        return {}
    shares = distribution(score_turns(model, processor.tokenizer, turns, _ATTRIBUTION).signed, 0.0).tolist()
    return {
        i: {f"share_{name}": value for name, value in zip(BLOCKS, row, strict=True)}
        for i, row in zip(called, shares, strict=True)
    }
