"""Rollouts outside training: the evaluator's greedy ones and the teacher's sampled calls.

Two turns as in TRL's loop: the policy speaks, the environment answers its calls, the policy speaks again.
Token ids are concatenated, never decoded and encoded again, so both loops feed the model the same ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from trl.chat_template_utils import parse_response
from trl.data_utils import prepare_multimodal_messages

from iapo.data.store import figure_to_json
from iapo.env import ENVIRONMENTS, FigureEnvironment, answer_tool_calls, attempts_call, tool_schemas
from iapo.processor import IMAGE_TOKEN, UNSAMPLED_TOKENS
from iapo.prompts import Message, open_image, prompt_messages
from iapo.types import Example, FigureKind, ToolCall


@dataclass(frozen=True)
class EncodedPrompt:
    """One prompt as the model takes it, image tokens expanded."""

    input_ids: list[int]
    pixel_values: Tensor
    """[patches, channels]"""
    image_grid_thw: Tensor
    """[images, 3]"""


@dataclass(frozen=True)
class Rollout:
    """What one policy did with one question."""

    messages: list[Message]
    """Assistant and tool messages, images left in place."""
    texts: list[str]
    """The assistant's turns as generated, special tokens kept out."""
    calls: list[ToolCall]
    """The valid calls of the tool turn, in order."""
    called: bool
    """Whether the first turn asked for a tool, well or badly."""
    call_ok: bool
    """Whether every call of the turn was carried out."""
    truncated: bool
    """Whether a turn ran into the token limit."""


def encode_prompt(processor: Any, messages: Sequence[Message], kind: FigureKind) -> EncodedPrompt:
    """Render and tokenize one prompt with the tools of its figure kind."""
    encoded = processor.apply_chat_template(
        [list(messages)],
        tools=list(tool_schemas(kind)),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    return EncodedPrompt(encoded["input_ids"][0].tolist(), encoded["pixel_values"], encoded["image_grid_thw"])


@torch.no_grad()
def generate_turn(
    model: Any,
    processor: Any,
    prompts: Sequence[EncodedPrompt],
    *,
    most_tokens: int,
    temperature: float | None = None,
) -> list[list[int]]:
    """One assistant turn for each prompt, in one batch.

    Args:
        model: in eval mode.
        processor: the model's.
        prompts: [B] encoded conversations so far.
        most_tokens: longest turn, tokens.
        temperature: None decodes greedily.

    Returns:
        [B] token ids of the turns, the end token included where one was reached.
    """
    tokenizer = processor.tokenizer
    padded = tokenizer.pad(
        {"input_ids": [prompt.input_ids for prompt in prompts]},
        padding_side="left",
        return_tensors="pt",
    ).to(model.device)
    image_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    output = model.generate(
        **padded,
        mm_token_type_ids=(padded["input_ids"] == image_id).long(),
        pixel_values=torch.cat([prompt.pixel_values for prompt in prompts]).to(model.device),
        image_grid_thw=torch.cat([prompt.image_grid_thw for prompt in prompts]).to(model.device),
        max_new_tokens=most_tokens,
        do_sample=temperature is not None,
        temperature=temperature,
        suppress_tokens=tokenizer.convert_tokens_to_ids(list(UNSAMPLED_TOKENS)),
    )
    turns = output[:, padded["input_ids"].shape[1] :].tolist()
    return [_until_end(turn, tokenizer.eos_token_id) for turn in turns]


def _until_end(turn: list[int], end: int) -> list[int]:
    return turn[: turn.index(end) + 1] if end in turn else turn


def roll_out(model: Any, processor: Any, examples: Sequence[Example], *, turn_tokens: int) -> list[Rollout]:
    """Answer questions greedily in one batch, with at most one tool turn each.

    Args:
        model: the policy in eval mode.
        processor: the model's.
        examples: [B] questions.
        turn_tokens: longest turn, tokens.
    """
    images = [open_image(example) for example in examples]
    prompts = [
        encode_prompt(processor, prompt_messages(example, image), example.figure.kind)
        for example, image in zip(examples, images, strict=True)
    ]
    first = generate_turn(model, processor, prompts, most_tokens=turn_tokens)
    environments = [_started(example, image) for example, image in zip(examples, images, strict=True)]
    conversations = [
        _first_turn(processor, example, prompt, turn, environment)
        for example, prompt, turn, environment in zip(examples, prompts, first, environments, strict=True)
    ]
    waiting = [i for i, messages in enumerate(conversations) if len(messages) > 1]
    second: dict[int, list[int]] = {}
    if waiting:
        continued = [_continue(processor, prompts[i], first[i], conversations[i][1:]) for i in waiting]
        turns = generate_turn(model, processor, continued, most_tokens=turn_tokens)
        second = dict(zip(waiting, turns, strict=True))
    return [
        _rollout(processor.tokenizer, conversations[i], environments[i], first[i], second.get(i))
        for i in range(len(examples))
    ]


def _started(example: Example, image: Any) -> FigureEnvironment:
    environment = ENVIRONMENTS[example.figure.kind]()
    environment.reset(figure=figure_to_json(example.figure), images=[image])
    return environment


def _first_turn(
    processor: Any,
    example: Example,
    prompt: EncodedPrompt,
    turn: list[int],
    environment: FigureEnvironment,
) -> list[Message]:
    """The assistant's message and, where it called tools, their answers."""
    message = parse_response(
        processor.tokenizer,
        turn,
        prefix=prompt.input_ids,
        tools=list(tool_schemas(example.figure.kind)),
    )
    return [message, *answer_tool_calls(environment, message.get("tool_calls") or [])]


def _continue(
    processor: Any, prompt: EncodedPrompt, turn: list[int], tool_messages: Sequence[Message]
) -> EncodedPrompt:
    """The conversation with the tool's answers appended, ready for the next turn."""
    images = [
        part["image"]
        for message in tool_messages
        if isinstance(message["content"], list)
        for part in message["content"]
        if part["type"] == "image"
    ]
    ids = prompt.input_ids + turn + tool_suffix_ids(processor, tool_messages)
    if not images:
        return EncodedPrompt(ids, prompt.pixel_values, prompt.image_grid_thw)
    encoded = processor.image_processor(images=images, return_tensors="pt")
    return EncodedPrompt(
        ids,
        torch.cat([prompt.pixel_values, encoded["pixel_values"]]),
        torch.cat([prompt.image_grid_thw, encoded["image_grid_thw"]]),
    )


def tool_suffix_ids(processor: Any, tool_messages: Sequence[Message]) -> list[int]:
    """Ids of the tool messages and the next turn's opening, as they follow an assistant's end token."""
    call = {"type": "function", "function": {"name": tool_messages[0]["name"], "arguments": {}}}
    opening = prepare_multimodal_messages(
        [
            {"role": "user", "content": "dummy"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
        ]
    )
    answers = prepare_multimodal_messages(list(tool_messages))

    def ids(messages: list[Message], more: bool) -> list[int]:
        encoded = processor.apply_chat_template([messages], add_generation_prompt=more, tokenize=True, return_dict=True)
        return list(encoded["input_ids"][0])

    prefix = ids(opening, False)
    end = processor.tokenizer.eos_token_id
    last_end = len(prefix) - 1 - prefix[::-1].index(end)
    return ids(opening + answers, True)[last_end + 1 :]


def _rollout(
    tokenizer: Any,
    messages: list[Message],
    environment: FigureEnvironment,
    first: list[int],
    second: list[int] | None,
) -> Rollout:
    turns = [first] if second is None else [first, second]
    texts = [tokenizer.decode(turn, skip_special_tokens=True) for turn in turns]
    if second is not None:
        messages = [*messages, {"role": "assistant", "content": texts[-1]}]
    return Rollout(
        messages=messages,
        texts=texts,
        calls=list(environment.calls),
        called=attempts_call(texts[0]),
        call_ok=environment.succeeded,
        truncated=any(turn[-1:] != [tokenizer.eos_token_id] for turn in turns),
    )
