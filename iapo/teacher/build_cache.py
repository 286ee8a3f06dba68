"""The offline pass that attributes the teacher's candidate calls for every training prompt and caches the results.

The paper scores the student's own calls with the teacher during training. Here every call that a look-up may need is
scored once in advance: the teacher's greedy and sampled calls, legal variations of the greedy one, and calls that
students made. The student influences which calls are scored, never how.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple
from pathlib import Path

from iapo.artifacts.progress import Progress
from iapo.attribution.batch import example_inputs
from iapo.attribution.scoring import score_turns
from iapo.config.schema import Config
from iapo.models.interfaces import Policy, Processor, QwenVL
from iapo.rollout.generation import Sampling
from iapo.rollout.turns import ToolTurn, turn_ids
from iapo.teacher.cache import TeacherCache
from iapo.teacher.candidates import Candidate, Source, text_before_call
from iapo.teacher.rows import CacheRow, read_manifest
from iapo.teacher.turns import PROMPTS_TOGETHER, Choose, Prompt, TurnWriter
from iapo.teacher.writer import CacheWriter, copy_cache
from iapo.tools.drawing import is_right
from iapo.tools.parsing import canonical, render_call
from iapo.types import BlockAttribution, Example, ToolCall

FILLED = "filled"
"""Candidate settings recorded for shards of calls that students made."""


class TeacherPass:
    """Pass that attributes candidate calls with one teacher and adds the rows to its cache."""

    def __init__(
        self, model: QwenVL, processor: Processor, config: Config, writer: CacheWriter, choose: Choose | None = None
    ) -> None:
        """
        Args:
            model: the teacher, in eval mode.
            processor: its processor.
            config: configuration of the run: which calls are candidates, and the teacher's attribution.
            writer: writer of the cache.
            choose: the calls to attribute, where its turns are written already; None has the model write them.
        """
        self._model, self._processor = model, processor
        turn_tokens = config.evaluation.turn_tokens
        self._choose = choose or TurnWriter(model, processor, config.teacher, turn_tokens).candidates
        self._attribution = config.teacher_attribution
        self._writer = writer
        # Without the pixels, which for thousands of figures fill a machine's memory.
        self._keys: dict[str, str] = {}
        # All settings that decide which calls are candidates. If they change, candidates are chosen again, but calls
        # that already have a row keep it.
        teacher = config.teacher
        self._candidates_id = json.dumps(
            [
                *(teacher.sampled_calls, teacher.enumerated, teacher.train_seed),
                *(*astuple(Sampling.of(teacher.train)), turn_tokens),
            ]
        )

    def run(self, examples: Sequence[Example]) -> None:
        """Attribute the candidates of every prompt that is not complete yet; a killed pass resumes here.

        Args:
            examples: the training examples.
        """
        finished = self._writer.finished(self._candidates_id)
        keys = self.keys(examples)
        pending = [example for example in examples if keys[example.example_id] not in finished]
        with Progress(len(examples), "teacher cache", start=len(examples) - len(pending), unit="prompt") as progress:
            for start in range(0, len(pending), PROMPTS_TOGETHER):
                chunk = [self._encoded(example) for example in pending[start : start + PROMPTS_TOGETHER]]
                rows = self._rows(chunk, self._choose(chunk))
                self._writer.add(rows, prompts=[prompt.key for prompt in chunk], candidates=self._candidates_id)
                progress.update(len(chunk))

    def drop_other_students(self, examples: Sequence[Example], calls: Mapping[str, Sequence[ToolCall]]) -> bool:
        """Drop the rows that :meth:`fill` added for students, if one of their calls is none of these students'.

        Args:
            examples: the training examples; rows of other prompts are another part's.
            calls: prompt key → the students' calls.

        Returns:
            Whether rows were dropped.
        """
        asked = {key: {canonical(call) for call in calls.get(key, ())} for key in self.keys(examples).values()}
        return self._writer.drop_outdated(
            FILLED, lambda row: row.prompt_key in asked and canonical(row.call) not in asked[row.prompt_key]
        )

    def fill(self, examples: Sequence[Example], calls: Mapping[str, Sequence[ToolCall]], cache: TeacherCache) -> int:
        """Attribute calls that students made and the cache lacks.

        Args:
            examples: the training examples.
            calls: prompt key → calls, repeated as often as they were made.
            cache: the cache as the pass left it. A student's call is placed after the text that the teacher writes
                before its own call.

        Returns:
            Number of rows added.
        """
        keys = self.keys(examples)
        missing = [
            (example, found)
            for example in examples
            if (found := self._missing(keys[example.example_id], calls.get(keys[example.example_id], ()), cache))
        ]
        with Progress(len(missing), "fill teacher cache", unit="prompt") as progress:
            for start in range(0, len(missing), PROMPTS_TOGETHER):
                chunk = missing[start : start + PROMPTS_TOGETHER]
                prompts = [self._encoded(example) for example, _ in chunk]
                rows = self._rows(prompts, [candidates for _, candidates in chunk])
                self._writer.add(rows, prompts=[], candidates=FILLED)
                progress.update(len(chunk))
        return sum(len(candidates) for _, candidates in missing)

    def keys(self, examples: Sequence[Example]) -> dict[str, str]:
        """Return example id → key of its prompt in the cache.

        Args:
            examples: the examples.
        """
        for example in examples:
            if example.example_id not in self._keys:
                self._keys[example.example_id] = self._encoded(example).key
        return {example.example_id: self._keys[example.example_id] for example in examples}

    def _encoded(self, example: Example) -> Prompt:
        return Prompt(example, self._processor)

    def _missing(self, key: str, calls: Sequence[ToolCall], cache: TeacherCache) -> list[Candidate]:
        """Return the distinct calls without a row; none for a prompt on which the teacher makes no valid call."""
        teacher_turn = cache.teacher_turn(key) if calls else None
        if teacher_turn is None:
            return []
        distinct = {canonical(call): call for call in calls}
        before = text_before_call(teacher_turn)
        return [
            Candidate(call, before + render_call(call), "filled")
            for text, call in distinct.items()
            if not self._writer.holds(key, text)
        ]

    def _rows(self, chunk: Sequence[Prompt], chosen: Sequence[Sequence[Candidate]]) -> Iterator[CacheRow]:
        """Attribute the chosen candidates of each prompt and yield their rows."""
        flat: list[tuple[Prompt, int, Candidate]] = []
        turns: list[ToolTurn] = []
        for prompt, calls in zip(chunk, chosen, strict=True):
            inputs = example_inputs(self._processor, prompt.example, prompt.encoded, self._attribution.blocks)
            for rank, candidate in enumerate(calls):
                flat.append((prompt, rank, candidate))
                ids = turn_ids(self._processor.tokenizer, candidate.text)
                turns.append(ToolTurn(inputs, ids, candidate.text, [candidate.call]))
        if not turns:
            return
        result = score_turns(self._model, self._processor.tokenizer, turns, self._attribution)
        for i, (prompt, rank, candidate) in enumerate(flat):
            yield cache_row(
                prompt.key,
                turns[i],
                result,
                i,
                source=candidate.source,
                # Filled calls rank last, because the lowest rank counts as the teacher's own call.
                rank=rank if candidate.source != "filled" else 1_000 + rank,
                correct=is_right(prompt.example.figure, candidate.call, prompt.example.focus_labels),
                answer_text=candidate.answer,
            )


def fill_copy(
    cache: Path,
    target: Path,
    teacher: Policy,
    examples: Sequence[Example],
    calls: Mapping[str, Sequence[ToolCall]],
    config: Config,
) -> int:
    """Copy a cache and add rows for calls that it lacks.

    The original is never changed, because a training run may have read it. An interrupted fill resumes where it
    stopped; of what it had added, a damaged shard is computed again.

    Args:
        cache: directory of the original cache.
        target: directory of the new cache.
        teacher: the teacher's model and processor.
        examples: the training examples.
        calls: prompt key → calls, repeated as often as they were made.
        config: configuration of the run, with the teacher's attribution.

    Returns:
        Number of rows added.
    """
    copy_cache(cache, target)
    # The writer first: it drops the damaged shards, which the cache would refuse.
    writer = CacheWriter(target, read_manifest(target)["fingerprint"])
    return TeacherPass(*teacher, config, writer).fill(examples, calls, TeacherCache(target))


def cache_row(
    key: str,
    turn: ToolTurn,
    result: BlockAttribution,
    i: int,
    *,
    source: Source,
    rank: int,
    correct: bool,
    answer_text: str | None = None,
) -> CacheRow:
    """Convert row ``i`` of an attribution into a row of the cache.

    Args:
        key: key of the prompt.
        turn: the attributed turn, with its call.
        result: attribution of a batch of turns.
        i: index of the turn in the batch.
        source: origin of the call.
        rank: position of the call among the prompt's candidates.
        correct: whether the call names exactly the annotated labels.
        answer_text: what the teacher says after a call of its own; None for any other.
    """
    blocks = turn.prompt.blocks
    return CacheRow(
        prompt_key=key,
        call=turn.calls[0],
        signed=tuple(result.signed[i, :blocks].tolist()),
        l1=tuple(result.l1[i, :blocks].tolist()),
        log_p=result.log_p[i].item(),
        delta_f=result.delta_f[i].item(),
        convergence_delta=result.convergence_delta[i].item(),
        source=source,
        rank=rank,
        correct=correct,
        call_text=turn.text,
        answer_text=answer_text,
    )
