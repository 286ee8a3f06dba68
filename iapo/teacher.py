"""The offline pass: the teacher's candidate calls for every training prompt, attributed and cached.

The paper scores the student's own calls with the teacher, online. Here every call that a look-up may need
is scored once: a few sampled ones, and every tool that is legal for the figure with the labels of the
teacher's greedy call.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch

from iapo.attribution import attribute
from iapo.blocks import block_ids
from iapo.config import TeacherConfig
from iapo.env import tool_schemas
from iapo.progress import Progress
from iapo.prompts import prompt_messages
from iapo.rollout import EncodedPrompt, encode_prompt, generate_turn
from iapo.teacher_cache import CacheRow, prompt_key
from iapo.tools import canonical, parse_turn, render_call, tools_for
from iapo.trainer import PromptInputs, ToolTurn, calls_batch
from iapo.types import Example, ToolCall

_PROMPTS_TOGETHER = 16
_CALL_TOKENS = 24

Candidate = tuple[ToolCall, str, Literal["sampled", "enumerated"]]
"""The call, its text, and where it comes from: ``sampled`` or ``enumerated``."""


def teacher_rows(
    model: Any,
    processor: Any,
    examples: Sequence[Example],
    config: TeacherConfig,
    fingerprint: str,
) -> Iterator[CacheRow]:
    """Attribute the candidate calls of every prompt.

    Args:
        model: the teacher, in eval mode.
        processor: its processor.
        examples: the prompts.
        config: how many calls to sample, and the attribution.
        fingerprint: of the teacher and the settings; part of every row's key.

    Yields:
        Rows for :func:`iapo.teacher_cache.write_cache`, prompt by prompt.
    """
    torch.manual_seed(config.train_seed)
    with Progress(len(examples), "teacher cache", unit="prompt") as progress:
        for start in range(0, len(examples), _PROMPTS_TOGETHER):
            chunk = examples[start : start + _PROMPTS_TOGETHER]
            encoded = [encode_prompt(processor, prompt_messages(example), example.figure.kind) for example in chunk]
            candidates = _candidates(model, processor, chunk, encoded, config)
            yield from _attributed(model, processor, chunk, encoded, candidates, config, fingerprint)
            progress.update(len(chunk))


def _candidates(
    model: Any,
    processor: Any,
    examples: Sequence[Example],
    encoded: Sequence[EncodedPrompt],
    config: TeacherConfig,
) -> list[list[Candidate]]:
    """For each prompt the distinct calls to attribute; none where the teacher never makes a valid one."""
    greedy = _texts(model, processor, encoded, None)
    sampled = [_texts(model, processor, encoded, config.train.temperature) for _ in range(config.sampled_calls)]
    return [_distinct(example, [greedy[i], *(texts[i] for texts in sampled)]) for i, example in enumerate(examples)]


def _texts(model: Any, processor: Any, encoded: Sequence[EncodedPrompt], temperature: float | None) -> list[str]:
    turns = generate_turn(model, processor, encoded, most_tokens=_CALL_TOKENS, temperature=temperature)
    return [processor.tokenizer.decode(turn, skip_special_tokens=True) for turn in turns]


def _distinct(example: Example, texts: Sequence[str]) -> list[Candidate]:
    found: dict[str, Candidate] = {}
    for text in texts:
        for call in parse_turn(text).calls[:1]:
            found.setdefault(canonical(call), (call, render_call(call), "sampled"))
    if not found:
        return []
    labels = next(iter(found.values()))[0].labels
    for tool in tools_for(example.figure.kind):
        call = ToolCall(tool.name, labels)
        found.setdefault(canonical(call), (call, render_call(call), "enumerated"))
    return list(found.values())


def _attributed(
    model: Any,
    processor: Any,
    examples: Sequence[Example],
    encoded: Sequence[EncodedPrompt],
    candidates: Sequence[Sequence[Candidate]],
    config: TeacherConfig,
    fingerprint: str,
) -> Iterator[CacheRow]:
    tokenizer = processor.tokenizer
    rows: list[tuple[Example, str, Candidate]] = []
    turns: list[ToolTurn] = []
    for example, prompt, calls in zip(examples, encoded, candidates, strict=True):
        inputs = _prompt_inputs(processor, example, prompt)
        key = prompt_key(fingerprint, prompt.input_ids, prompt.pixel_values, prompt.image_grid_thw)
        for candidate in calls:
            ids = tokenizer(candidate[1], add_special_tokens=False)["input_ids"]
            rows.append((example, key, candidate))
            turns.append(ToolTurn(inputs, [*ids, tokenizer.eos_token_id], candidate[1]))
    if not turns:
        return
    batch = calls_batch(turns, tokenizer, model.device)
    result = attribute(model, batch, config=config.attribution)
    for i, (example, key, (call, text, source)) in enumerate(rows):
        yield CacheRow(
            prompt_key=key,
            call=call,
            signed=tuple(result.signed[i].tolist()),
            l1=tuple(result.l1[i].tolist()),
            delta_f=result.delta_f[i].item(),
            residual=result.residual[i].item(),
            source=source,
            correct=set(call.labels) == set(example.focus_labels),
            call_text=text,
        )


def _prompt_inputs(processor: Any, example: Example, prompt: EncodedPrompt) -> PromptInputs:
    tools = list(tool_schemas(example.figure.kind))
    blocks = block_ids(processor, prompt_messages(example), tools, prompt.input_ids)
    image_id = processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    fields = {
        "pixel_values": prompt.pixel_values,
        "image_grid_thw": prompt.image_grid_thw,
        "mm_token_type_ids": [[int(token == image_id) for token in prompt.input_ids]],
    }
    return PromptInputs(prompt.input_ids, fields, blocks)
