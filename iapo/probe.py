"""A policy's own sampled calls, outside training: what the cache will be asked for and what is audited."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from iapo.checkpoints import MISSES
from iapo.progress import Progress
from iapo.prompts import open_image
from iapo.provenance import atomic_write
from iapo.rollout import encode_examples, generate_turn
from iapo.tools import parse_turn
from iapo.types import Example, ToolCall

_TOGETHER = 16

_SCHEMA = pa.schema(
    [("example_id", pa.string()), ("rollout", pa.int32()), ("text", pa.string()), ("correct", pa.bool_())]
)


@dataclass(frozen=True)
class SampledCall:
    """The first turn of one rollout, where it holds a well-formed call."""

    example_id: str
    rollout: int
    text: str
    """The turn as generated, special tokens kept out."""
    correct: bool
    """Whether the first call names the annotated labels."""

    @property
    def call(self) -> ToolCall:
        """The first call of the turn."""
        return parse_turn(self.text).calls[0]


def sample_calls(
    model: Any,
    processor: Any,
    examples: Sequence[Example],
    *,
    rollouts: int,
    temperature: float | None,
    turn_tokens: int,
    seed: int,
) -> list[SampledCall]:
    """First turns as the trainer would sample them, those without a well-formed call left out.

    Args:
        model: the policy in eval mode.
        processor: its processor.
        examples: the prompts.
        rollouts: turns a prompt.
        temperature: of the sampling; None decodes greedily.
        turn_tokens: longest turn, tokens.
        seed: of the sampling.
    """
    torch.manual_seed(seed)
    found: list[SampledCall] = []
    with Progress(len(examples), "sample calls", unit="prompt") as progress:
        for start in range(0, len(examples), _TOGETHER):
            chunk = examples[start : start + _TOGETHER]
            prompts = encode_examples(processor, chunk, [open_image(example) for example in chunk])
            turns = generate_turn(
                model,
                processor,
                [prompt for prompt in prompts for _ in range(rollouts)],
                most_tokens=turn_tokens,
                temperature=temperature,
            )
            for i, turn in enumerate(turns):
                example, rollout = chunk[i // rollouts], i % rollouts
                text = processor.tokenizer.decode(turn, skip_special_tokens=True)
                for call in parse_turn(text).calls[:1]:
                    right = set(call.labels) == set(example.focus_labels)
                    found.append(SampledCall(example.example_id, rollout, text, right))
            progress.update(len(chunk))
    return found


def write_calls(path: Path, calls: Sequence[SampledCall]) -> None:
    """Write one file, whole or not at all."""
    with atomic_write(path) as partial:
        pq.write_table(pa.Table.from_pylist([asdict(call) for call in calls], schema=_SCHEMA), partial)


def read_sampled(path: Path) -> list[SampledCall]:
    """What :func:`write_calls` wrote."""
    return [SampledCall(**row) for row in pq.read_table(path).to_pylist()]


def read_calls(path: Path) -> dict[str, list[ToolCall]]:
    """Example id → its calls, from the same file."""
    calls: dict[str, list[ToolCall]] = defaultdict(list)
    for sampled in read_sampled(path):
        calls[sampled.example_id].append(sampled.call)
    return dict(calls)


def read_misses(works: Iterable[Path]) -> dict[str, list[ToolCall]]:
    """Prompt key → calls that the cache lacked in training runs with these work folders; each run's, once a run."""
    calls: dict[str, list[ToolCall]] = defaultdict(list)
    for work in works:
        for line in (work / MISSES).read_text().splitlines():
            miss = json.loads(line)
            calls[miss["prompt_key"]] += parse_turn(miss["turn"]).calls[:1]
    return dict(calls)
