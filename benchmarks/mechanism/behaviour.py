"""What a policy does in the shortcut world: does its call follow the request or the hint, and what carries it?

Reliance is measured by editing a block and looking whether the call changes; alignment by the block's share
in the attribution of the call. The study asks whether the two go together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from iapo.alignment import BLOCKS, distribution
from iapo.answers import extract, score
from iapo.config import AttributionConfig
from iapo.data.hints import figure_labels, hint_of, with_hint
from iapo.prompts import open_image, prompt_messages
from iapo.rollout import encode_examples, encode_prompt, generate_turn, roll_out
from iapo.teacher import score_turns, turn_ids
from iapo.tools import parse_turn
from iapo.turns import ToolTurn, example_inputs
from iapo.types import Example

_TOGETHER = 120
_SHARES = AttributionConfig(tolerance=1e9)
"""The same four blocks for every condition, whatever it was trained with."""

Record = dict[str, Any]


def measure(model: Any, processor: Any, examples: Sequence[Example], *, turn_tokens: int) -> list[Record]:
    """One record a question, greedy decoding.

    Args:
        model: the policy in eval mode.
        processor: its processor.
        examples: test questions with hints.
        turn_tokens: longest turn, tokens.

    Returns:
        ``example_id, test_set, score`` (of the final answer), ``hint_misleads``, ``follows_request`` and
        ``follows_hint`` (whether the call names the asked or the hinted label), ``flips_with_hint`` and
        ``flips_with_request`` (whether it names the new label once the hint or the request is swapped),
        ``share_P … share_T`` of the call's attribution; the last six None where there is no call.
    """
    records: list[Record] = []
    for start in range(0, len(examples), _TOGETHER):
        chunk = examples[start : start + _TOGETHER]
        others = [_other_label(example) for example in chunk]
        rollouts = roll_out(model, processor, chunk, turn_tokens=turn_tokens)
        hinted = [with_hint(example, other) for example, other in zip(chunk, others, strict=True)]
        asked = [_asking(example, other) for example, other in zip(chunk, others, strict=True)]
        swapped_hint = called_labels(model, processor, hinted, turn_tokens)
        swapped_request = called_labels(model, processor, asked, turn_tokens)
        shares = _shares(model, processor, chunk, [rollout.texts[0] for rollout in rollouts])
        for i, (example, rollout) in enumerate(zip(chunk, rollouts, strict=True)):
            label = rollout.calls[0].labels[:1] if rollout.calls else None
            right, hint = example.focus_labels[0], hint_of(example)
            record: Record = {
                "example_id": example.example_id,
                "test_set": example.test_set,
                "score": score(extract(rollout.texts[-1]), example.answer, example.metric),
                "hint_misleads": hint != right,
                "follows_request": None if label is None else label == (right,),
                "follows_hint": None if label is None else label == (hint,),
                "flips_with_hint": None if label is None else swapped_hint[i] == others[i],
                "flips_with_request": None if label is None else swapped_request[i] == others[i],
            }
            records.append(record | {f"share_{name}": None for name in BLOCKS} | shares.get(i, {}))
    return records


def called_labels(model: Any, processor: Any, examples: Sequence[Example], turn_tokens: int) -> list[str | None]:
    """The first label of each prompt's greedy call; None where there is none."""
    prompts = encode_examples(processor, examples, [open_image(example) for example in examples])
    turns = generate_turn(model, processor, prompts, most_tokens=turn_tokens)
    calls = [parse_turn(processor.tokenizer.decode(turn, skip_special_tokens=True)).calls for turn in turns]
    return [found[0].labels[0] if found and found[0].labels else None for found in calls]


def _other_label(example: Example) -> str:
    """A label that is neither asked for nor hinted at."""
    taken = {example.focus_labels[0], hint_of(example)}
    return next(label for label in figure_labels(example) if label not in taken)


def _asking(example: Example, label: str) -> Example:
    return replace(example, request=example.request.replace(example.focus_labels[0], label))


def _shares(model: Any, processor: Any, examples: Sequence[Example], texts: Sequence[str]) -> dict[int, Record]:
    """Position → block shares of the call, where there is one."""
    called = [i for i, text in enumerate(texts) if parse_turn(text).calls]
    turns = []
    for i in called:
        encoded = encode_prompt(processor, prompt_messages(examples[i]), examples[i].figure.kind)
        ids = turn_ids(processor.tokenizer, texts[i])
        turns.append(ToolTurn(example_inputs(processor, examples[i], encoded), ids, texts[i]))
    if not turns:
        return {}
    shares = distribution(score_turns(model, processor.tokenizer, turns, _SHARES).signed, 0.0).tolist()
    return {
        i: {f"share_{name}": value for name, value in zip(BLOCKS, row, strict=True)}
        for i, row in zip(called, shares, strict=True)
    }
