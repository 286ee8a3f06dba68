"""The offline pass: the teacher's candidate calls for every training prompt, attributed and cached.

The paper scores the student's own calls with the teacher, online. Here every call that a look-up may need
is scored once: the teacher's greedy and sampled ones, legal calls near the greedy one, and calls that a
student was seen to make. The student decides which calls are scored, never how.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from iapo.attribution import attribute
from iapo.cache_writer import CacheWriter
from iapo.config import AttributionConfig, Config, TeacherConfig
from iapo.progress import Progress
from iapo.prompts import prompt_messages
from iapo.rollout import EncodedPrompt, encode_prompt, generate_turn
from iapo.teacher_cache import CacheRow, TeacherCache, digest, prompt_key
from iapo.tools import canonical, parse_turn, render_call, tools_for
from iapo.turns import ToolTurn, calls_batch, example_inputs
from iapo.types import BlockAttribution, Example, ToolCall

_PROMPTS_TOGETHER = 16
_FILLED = "filled"

Source = Literal["sampled", "enumerated", "filled"]


@dataclass(frozen=True)
class Candidate:
    """A call to attribute."""

    call: ToolCall
    text: str
    """The whole turn: whatever the teacher says before its call, and the call."""
    source: Source


@dataclass(frozen=True)
class _Prompt:
    example: Example
    encoded: EncodedPrompt
    key: str


class TeacherPass:
    """Attributes candidate calls with one teacher and adds them to its cache."""

    def __init__(self, model: Any, processor: Any, config: Config, writer: CacheWriter, fingerprint: str) -> None:
        """
        Args:
            model: the teacher, in eval mode.
            processor: its processor.
            config: how many calls to sample, and the attribution.
            writer: of the cache.
            fingerprint: of the teacher and the settings; part of every row's key.
        """
        self._model, self._processor = model, processor
        self._settings: TeacherConfig = config.teacher
        self._temperature = config.teacher.train.temperature
        self._turn_tokens = config.evaluation.turn_tokens
        self._attribution = config.teacher_attribution
        self._writer, self._fingerprint = writer, fingerprint
        self._candidates_id = json.dumps(
            [self._settings.sampled_calls, self._settings.enumerated, self._settings.train_seed]
        )

    def run(self, examples: Sequence[Example]) -> None:
        """Score the candidates of every prompt that is not finished; a killed pass goes on here."""
        finished = self._writer.finished(self._candidates_id)
        prompts = self._encoded(examples)
        pending = [prompt for prompt in prompts if prompt.key not in finished]
        with Progress(len(prompts), "teacher cache", start=len(prompts) - len(pending), unit="prompt") as progress:
            for start in range(0, len(pending), _PROMPTS_TOGETHER):
                chunk = pending[start : start + _PROMPTS_TOGETHER]
                rows = self._rows(chunk, self._sampled_candidates(chunk))
                self._writer.add(rows, prompts=[each.key for each in chunk], candidates=self._candidates_id)
                progress.update(len(chunk))

    def fill(self, examples: Sequence[Example], calls: Mapping[str, Sequence[ToolCall]], cache: TeacherCache) -> int:
        """Score calls that students made and the cache lacks.

        Args:
            examples: the prompts.
            calls: prompt key → calls, as often as they were made.
            cache: as the pass left it: a call is filled in after what the teacher says before its own.

        Returns:
            How many rows were added.
        """
        prompts = [prompt for prompt in self._encoded(examples) if calls.get(prompt.key)]
        wanted = [(prompt, self._missing(prompt, calls[prompt.key], cache)) for prompt in prompts]
        wanted = [(prompt, candidates) for prompt, candidates in wanted if candidates]
        with Progress(len(wanted), "fill teacher cache", unit="prompt") as progress:
            for start in range(0, len(wanted), _PROMPTS_TOGETHER):
                chunk = wanted[start : start + _PROMPTS_TOGETHER]
                rows = self._rows([prompt for prompt, _ in chunk], [candidates for _, candidates in chunk])
                self._writer.add(rows, prompts=[], candidates=_FILLED)
                progress.update(len(chunk))
        return sum(len(candidates) for _, candidates in wanted)

    def keys(self, examples: Sequence[Example]) -> dict[str, str]:
        """Example id → key of its prompt."""
        return {prompt.example.example_id: prompt.key for prompt in self._encoded(examples)}

    def _encoded(self, examples: Sequence[Example]) -> list[_Prompt]:
        prompts = []
        for example in examples:
            encoded = encode_prompt(self._processor, prompt_messages(example), example.figure.kind)
            key = prompt_key(self._fingerprint, encoded.input_ids, encoded.pixel_values, encoded.image_grid_thw)
            prompts.append(_Prompt(example, encoded, key))
        return prompts

    def _missing(self, prompt: _Prompt, calls: Sequence[ToolCall], cache: TeacherCache) -> list[Candidate]:
        said = cache.teacher_turn(prompt.key)
        if said is None:
            return []
        distinct = {canonical(call): call for call in calls}
        before = _before_call(said)
        return [
            Candidate(call, before + render_call(call), "filled")
            for text, call in distinct.items()
            if not self._writer.holds(prompt.key, text)
        ]

    def _sampled_candidates(self, chunk: Sequence[_Prompt]) -> list[list[Candidate]]:
        # Seeded by the prompt, so that a resumed or extended pass samples what an undisturbed one would; and not by its
        # key, so that caches which differ in the attribution alone hold the same calls.
        torch.manual_seed(int(digest(chunk[0].example.example_id.encode())[:8], 16) + self._settings.train_seed)
        rounds = [self._texts(chunk, None)]
        rounds += [self._texts(chunk, self._temperature) for _ in range(self._settings.sampled_calls)]
        return [
            candidates(prompt.example, [texts[i] for texts in rounds], self._settings) for i, prompt in enumerate(chunk)
        ]

    def _texts(self, chunk: Sequence[_Prompt], temperature: float | None) -> list[str]:
        prompts = [prompt.encoded for prompt in chunk]
        turns = generate_turn(
            self._model, self._processor, prompts, most_tokens=self._turn_tokens, temperature=temperature
        )
        return [self._processor.tokenizer.decode(turn, skip_special_tokens=True) for turn in turns]

    def _rows(self, chunk: Sequence[_Prompt], chosen: Sequence[Sequence[Candidate]]) -> Iterator[CacheRow]:
        flat: list[tuple[_Prompt, int, Candidate]] = []
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
                # A filled call never stands in for the teacher's own.
                rank=rank if candidate.source != "filled" else 1_000 + rank,
                correct=set(candidate.call.labels) == set(prompt.example.focus_labels),
            )


def cache_row(
    key: str, turn: ToolTurn, result: BlockAttribution, i: int, *, source: Source, rank: int, correct: bool
) -> CacheRow:
    """Row ``i`` of an attribution, for the cache.

    Args:
        key: of the prompt.
        turn: the one that was attributed, with its call.
        result: of several turns.
        i: which of them it is.
        source: where the call came from.
        rank: its place among the prompt's candidates.
        correct: whether it names the annotated labels.
    """
    blocks = turn.prompt.blocks
    return CacheRow(
        prompt_key=key,
        call=turn.calls[0],
        signed=tuple(result.signed[i, :blocks].tolist()),
        l1=tuple(result.l1[i, :blocks].tolist()),
        log_p=result.log_p[i].item(),
        delta_f=result.delta_f[i].item(),
        residual=result.residual[i].item(),
        source=source,
        rank=rank,
        correct=correct,
        call_text=turn.text,
    )


def candidates(example: Example, texts: Sequence[str], config: TeacherConfig) -> list[Candidate]:
    """The distinct calls to attribute; none where the teacher never makes a valid one.

    Args:
        example: the prompt.
        texts: the teacher's turns, the greedy one first.
        config: which legal calls are added.
    """
    found: dict[str, Candidate] = {}
    for text in texts:
        for call in parse_turn(text).calls[:1]:
            found.setdefault(canonical(call), Candidate(call, _before_call(text) + render_call(call), "sampled"))
    if not found:
        return []
    first = next(iter(found.values()))
    for call in legal_calls(example, first.call, config):
        found.setdefault(canonical(call), Candidate(call, _before_call(first.text) + render_call(call), "enumerated"))
    return list(found.values())


def legal_calls(example: Example, near: ToolCall, config: TeacherConfig) -> list[ToolCall]:
    """Calls that the figure's kind allows: other tools with the same labels, other labels with the same tool."""
    tools = [tool.name for tool in tools_for(example.figure.kind)]
    families = {tool.name: tool.family for tool in tools_for(example.figure.kind)}
    calls: list[ToolCall] = []
    if config.enumerated in ("tools", "all"):
        calls += [ToolCall(name, near.labels) for name in tools]
    if config.enumerated in ("labels", "all"):
        named = tools if config.enumerated == "all" else [near.name]
        for name in named:
            labels = example.figure.boxes.get(families.get(name, ""), {})  # type: ignore[call-overload]
            calls += [ToolCall(name, (label,)) for label in labels]
    return calls


def score_turns(
    model: Any, tokenizer: Any, turns: Sequence[ToolTurn], config: AttributionConfig, *, together: int = 128
) -> BlockAttribution:
    """Attribute turns in batches of rows; sums of a prompt with fewer blocks end in zeros.

    Args:
        model: teacher or student, in eval mode.
        tokenizer: the model's.
        turns: [B]
        config: the attribution.
        together: rows collated at once; bounds memory, never the result.
    """
    parts = [
        attribute(
            model, calls_batch(turns[start : start + together], tokenizer, model.device, config.target), config=config
        )
        for start in range(0, len(turns), together)
    ]
    blocks = max(part.signed.shape[1] for part in parts)
    pad = torch.nn.functional.pad
    return BlockAttribution(
        signed=torch.cat([pad(part.signed, (0, blocks - part.signed.shape[1])) for part in parts]),
        l1=torch.cat([pad(part.l1, (0, blocks - part.l1.shape[1])) for part in parts]),
        residual=torch.cat([part.residual for part in parts]),
        delta_f=torch.cat([part.delta_f for part in parts]),
        log_p=torch.cat([part.log_p for part in parts]),
    )


def turn_ids(tokenizer: Any, text: str) -> list[int]:
    """A whole assistant turn as token ids, with its end token."""
    return [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]


def _before_call(text: str) -> str:
    return text.partition("<tool_call>")[0]
