"""Tool calls sampled from a policy outside training.

The teacher cache is filled for these calls before training, and the audits compare attributions on them.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from iapo.artifacts.files import atomic_write
from iapo.artifacts.progress import Progress
from iapo.artifacts.run_record import RECORD_SUFFIX, difference_from_record
from iapo.data.prompts import open_image
from iapo.models.interfaces import Processor
from iapo.rollout.encoding import encode_examples
from iapo.rollout.generation import Sampling, Writer, generate_turn, turn_text
from iapo.tools.drawing import is_right
from iapo.tools.parsing import parse_turn
from iapo.types import Example, ToolCall

MISSES = "misses.jsonl"
"""File in a run directory that lists the calls for which the teacher cache had no row of their own."""

_PROMPTS_PER_BATCH = 16

_SCHEMA = pa.schema(
    [("example_id", pa.string()), ("rollout", pa.int32()), ("text", pa.string()), ("correct", pa.bool_())]
)


class MissesError(RuntimeError):
    """A list of missed calls that is damaged; the message names the line and says what to do."""


@dataclass(frozen=True)
class SampledCall:
    """The first turn of one rollout, which holds at least one well-formed call."""

    example_id: str
    """The question."""
    rollout: int
    """Index of the rollout among those of the same prompt."""
    text: str
    """The turn as generated, without special tokens."""
    correct: bool
    """Whether the first call can be carried out and names exactly the annotated labels."""

    @property
    def call(self) -> ToolCall:
        """The first call of the turn."""
        return parse_turn(self.text).calls[0]


def sample_calls(
    model: Writer,
    processor: Processor,
    examples: Sequence[Example],
    *,
    rollouts: int,
    sampling: Sampling | None,
    turn_tokens: int,
    seed: int,
) -> list[SampledCall]:
    """Sample first turns as the trainer does, and keep those with a well-formed call.

    Args:
        model: the policy, in eval mode or in an engine, which has a seed of its own.
        processor: the model's processor.
        examples: the questions to prompt with.
        rollouts: turns to sample per prompt.
        sampling: how tokens are drawn, as the trainer's settings say; None decodes greedily.
        turn_tokens: maximum length of a turn, in tokens.
        seed: seed of the sampling.
    """
    torch.manual_seed(seed)
    sampled: list[SampledCall] = []
    with Progress(len(examples), "sample calls", unit="prompt") as progress:
        for start in range(0, len(examples), _PROMPTS_PER_BATCH):
            chunk = examples[start : start + _PROMPTS_PER_BATCH]
            prompts = encode_examples(processor, chunk, [open_image(example) for example in chunk])
            turns = generate_turn(
                model,
                processor,
                [prompt for prompt in prompts for _ in range(rollouts)],
                max_tokens=turn_tokens,
                sampling=sampling,
            )
            for i, turn in enumerate(turns):
                example, rollout = chunk[i // rollouts], i % rollouts
                text = turn_text(processor.tokenizer, turn)
                for call in parse_turn(text).calls[:1]:
                    correct = is_right(example.figure, call, example.focus_labels)
                    sampled.append(SampledCall(example.example_id, rollout, text, correct))
            progress.update(len(chunk))
    return sampled


def write_calls(path: Path, calls: Sequence[SampledCall]) -> None:
    """Write sampled calls to a Parquet file, atomically."""
    with atomic_write(path) as tmp:
        pq.write_table(pa.Table.from_pylist([asdict(call) for call in calls], schema=_SCHEMA), tmp)


def read_sampled(path: Path) -> list[SampledCall]:
    """Read a file that :func:`write_calls` wrote."""
    return [SampledCall(**row) for row in pq.read_table(path).to_pylist()]


def read_calls(path: Path) -> dict[str, list[ToolCall]]:
    """Return example id → its sampled calls, from a file that :func:`write_calls` wrote."""
    calls: dict[str, list[ToolCall]] = defaultdict(list)
    for sampled in read_sampled(path):
        calls[sampled.example_id].append(sampled.call)
    return dict(calls)


def read_misses(run_dirs: Iterable[Path]) -> dict[str, list[ToolCall]]:
    """Return prompt key → the calls that the teacher cache lacked during some training runs.

    Args:
        run_dirs: run directories, each with a file :data:`MISSES`. A call that several runs missed is listed once
            for each of them.

    Raises:
        MissesError: if a file is missing, or is not as a training wrote it.
    """
    calls: dict[str, list[ToolCall]] = defaultdict(list)
    for run_dir in run_dirs:
        path = run_dir / MISSES
        advice = (
            f"bring it back from a copy, or remove the run's folder {run_dir.parent}, and the same command trains it "
            "again"
        )
        if not path.exists():
            raise MissesError(
                f"{path}: found no file, expected the calls that the teacher's cache lacked in a training; {advice}"
            )
        if found := difference_from_record(run_dir.with_name(f"model{RECORD_SUFFIX}"), path):
            raise MissesError(f"{path}: {found}; {advice}")
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1):
            try:
                miss = json.loads(line)
                key, turn = miss["prompt_key"], miss["turn"]
            except (ValueError, TypeError, KeyError) as error:
                raise MissesError(
                    f"{path}, line {number}: found {line[:60]!r}, expected a missed call with its prompt_key and turn; "
                    f"{advice}"
                ) from error
            calls[key] += parse_turn(turn).calls[:1]
    return dict(calls)
