"""Rollouts outside training: the evaluator's greedy ones and the teacher's sampled calls.

Two turns as in TRL's loop: the policy speaks, the environment answers its calls, the policy speaks again.
Token ids are concatenated, never decoded and encoded again, so both loops feed the model the same ids.

Whether the edited image helped is asked by two more answers to the same question, after arXiv 2602.01334: one where the
tool hands back the original image, and one without tools.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from trl.chat_template_utils import parse_response
from trl.data_utils import prepare_multimodal_messages

from iapo.data.store import figure_to_json
from iapo.env import ENVIRONMENTS, FigureEnvironment, answer_tool_calls, attempts_call, tool_schemas
from iapo.processor import IMAGE_TOKEN, UNSAMPLED_TOKENS
from iapo.prompts import Message, open_image, prompt_messages
from iapo.tools import CALL_TOKEN
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
    text_original: str | None = None
    """The last turn where the tool hands back the original image; None where this was not asked."""
    text_off: str | None = None
    """The only turn where there is no tool to call; None where this was not asked."""


def encode_prompt(processor: Any, messages: Sequence[Message], kind: FigureKind) -> EncodedPrompt:
    """Render and tokenize one prompt with the tools of its figure kind."""
    encoded = _render(processor, [messages], kind)
    return EncodedPrompt(encoded["input_ids"][0].tolist(), encoded["pixel_values"], encoded["image_grid_thw"])


def encode_examples(
    processor: Any, examples: Sequence[Example], images: Sequence[Image.Image], *, tools: bool = True
) -> list[EncodedPrompt]:
    """The prompts of some questions, with the tools of their figure kinds or without any.

    Equal to one :func:`encode_prompt` after the other. The processor's calls cost more than its work, so there is
    one for all prompts with the same tools.

    Args:
        processor: the model's.
        examples: [B] questions.
        images: [B] their figures, decoded.
        tools: whether the prompts define tools.
    """
    kinds = [example.figure.kind if tools else None for example in examples]
    prompts: dict[int, EncodedPrompt] = {}
    for kind in dict.fromkeys(kinds):
        rows = [i for i, other in enumerate(kinds) if other == kind]
        encoded = _render(processor, [prompt_messages(examples[i], images[i]) for i in rows], kind)
        grids = encoded["image_grid_thw"]
        pixels = encoded["pixel_values"].split(grids.prod(dim=1).tolist())
        for n, i in enumerate(rows):
            ids = encoded["input_ids"][n][encoded["attention_mask"][n].bool()].tolist()
            prompts[i] = EncodedPrompt(ids, pixels[n], grids[n : n + 1])
    return [prompts[i] for i in range(len(examples))]


def _render(processor: Any, conversations: Sequence[Sequence[Message]], kind: FigureKind | None) -> Any:
    return processor.apply_chat_template(
        [list(messages) for messages in conversations],
        tools=None if kind is None else list(tool_schemas(kind)),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True},
    )


@torch.no_grad()
def generate_turn(
    model: Any,
    processor: Any,
    prompts: Sequence[EncodedPrompt],
    *,
    most_tokens: int,
    temperature: float | None = None,
    suppressed: Sequence[str] = UNSAMPLED_TOKENS,
) -> list[list[int]]:
    """One assistant turn for each prompt, in one batch.

    Args:
        model: in eval mode.
        processor: the model's.
        prompts: [B] encoded conversations so far.
        most_tokens: longest turn, tokens.
        temperature: None decodes greedily.
        suppressed: tokens that no turn may hold.

    Returns:
        [B] token ids of the turns, the end token included where one was reached.

    Raises:
        ValueError: for a suppressed token that the tokenizer does not know.
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
        suppress_tokens=_known_tokens(tokenizer, suppressed),
    )
    turns = output[:, padded["input_ids"].shape[1] :].tolist()
    return [_until_end(turn, tokenizer.eos_token_id) for turn in turns]


def _known_tokens(tokenizer: Any, tokens: Sequence[str]) -> list[int]:
    ids = dict(zip(tokens, tokenizer.convert_tokens_to_ids(list(tokens)), strict=True))
    unknown = [token for token, known in ids.items() if known is None or known == tokenizer.unk_token_id]
    if unknown:
        raise ValueError(
            f"the tokenizer has no token {', '.join(unknown)}; expected one of Qwen2.5-VL's, as its calls are written"
        )
    return list(ids.values())


def _until_end(turn: list[int], end: int) -> list[int]:
    return turn[: turn.index(end) + 1] if end in turn else turn


def roll_out(
    model: Any, processor: Any, examples: Sequence[Example], *, turn_tokens: int, image_help: bool = False
) -> list[Rollout]:
    """Answer questions greedily in one batch, with at most one tool turn each.

    Args:
        model: the policy in eval mode.
        processor: the model's.
        examples: [B] questions.
        turn_tokens: longest turn, tokens.
        image_help: whether to answer each also with the original image returned, and without tools.
    """
    images = [open_image(example) for example in examples]
    prompts = encode_examples(processor, examples, images)
    first = generate_turn(model, processor, prompts, most_tokens=turn_tokens)
    environments = [_started(example, image) for example, image in zip(examples, images, strict=True)]
    conversations = [
        _first_turn(processor, example, prompt, turn, environment)
        for example, prompt, turn, environment in zip(examples, prompts, first, environments, strict=True)
    ]
    continued = {
        i: continue_prompt(processor, prompts[i], first[i], messages[1:])
        for i, messages in enumerate(conversations)
        if len(messages) > 1
    }
    second = _generate_where(model, processor, continued, turn_tokens)
    rollouts = [
        _rollout(processor.tokenizer, conversations[i], environments[i], first[i], second.get(i))
        for i in range(len(examples))
    ]
    if not image_help:
        return rollouts
    original = _answer_with_original(model, processor, prompts, continued, turn_tokens)
    off = _answer_without_tools(model, processor, examples, images, turn_tokens)
    return [
        replace(rollout, text_original=original.get(i, rollout.texts[-1]), text_off=off[i])
        for i, rollout in enumerate(rollouts)
    ]


def _generate_where(
    model: Any, processor: Any, prompts: Mapping[int, EncodedPrompt], turn_tokens: int
) -> dict[int, list[int]]:
    """Row → its next turn, for the rows that have a prompt."""
    if not prompts:
        return {}
    turns = generate_turn(model, processor, list(prompts.values()), most_tokens=turn_tokens)
    return dict(zip(prompts, turns, strict=True))


def with_original(prompt: EncodedPrompt, continued: EncodedPrompt) -> EncodedPrompt:
    """A continued conversation that shows the prompt's one image wherever a tool returned one."""
    images = len(continued.image_grid_thw)
    # An edit keeps the size, and so the number of image tokens.
    assert torch.equal(continued.image_grid_thw, prompt.image_grid_thw.expand(images, -1)), "a tool changed the size"
    return replace(continued, pixel_values=prompt.pixel_values.repeat(images, 1))


def _answer_with_original(
    model: Any,
    processor: Any,
    prompts: Sequence[EncodedPrompt],
    continued: Mapping[int, EncodedPrompt],
    turn_tokens: int,
) -> dict[int, str]:
    """Row → its last turn, for the rows whose figure was edited; the others' rollouts would be the same again."""
    unedited = {i: with_original(prompts[i], prompt) for i, prompt in continued.items()}
    edited = {i: p for i, p in unedited.items() if not torch.equal(p.pixel_values, continued[i].pixel_values)}
    turns = _generate_where(model, processor, edited, turn_tokens)
    return {i: _text(processor.tokenizer, turn) for i, turn in turns.items()}


def _answer_without_tools(
    model: Any, processor: Any, examples: Sequence[Example], images: Sequence[Image.Image], turn_tokens: int
) -> list[str]:
    prompts = encode_examples(processor, examples, images, tools=False)
    # A policy that learned to call would call all the same, and never answer.
    suppressed = (*UNSAMPLED_TOKENS, CALL_TOKEN)
    turns = generate_turn(model, processor, prompts, most_tokens=turn_tokens, suppressed=suppressed)
    return [_text(processor.tokenizer, turn) for turn in turns]


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


def continue_prompt(
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
    # Text, or the sizes of images, whatever they show: all that the ids depend on.
    shapes = [
        content if isinstance(content, str) else [part["image"].size for part in content]
        for content in (message["content"] for message in tool_messages)
    ]
    names = [message["name"] for message in tool_messages]
    return list(_suffix_ids(processor, json.dumps([names, shapes])))


@lru_cache(maxsize=512)
def _suffix_ids(processor: Any, key: str) -> tuple[int, ...]:
    """Kept, because the few answers that there are come back in every batch."""
    names, shapes = json.loads(key)
    call = {"type": "function", "function": {"name": names[0], "arguments": {}}}
    opening: list[Message] = [
        {"role": "user", "content": "dummy"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
    ]
    answers: list[Message] = [
        {"role": "tool", "name": name, "content": shape if isinstance(shape, str) else _blank_images(shape)}
        for name, shape in zip(names, shapes, strict=True)
    ]

    def ids(messages: list[Message], more: bool) -> list[int]:
        messages = prepare_multimodal_messages(messages)
        encoded = processor.apply_chat_template([messages], add_generation_prompt=more, tokenize=True, return_dict=True)
        return list(encoded["input_ids"][0])

    prefix = ids(opening, False)
    end = processor.tokenizer.eos_token_id
    last_end = len(prefix) - 1 - prefix[::-1].index(end)
    return tuple(ids(opening + answers, True)[last_end + 1 :])


def _blank_images(sizes: Sequence[Sequence[int]]) -> list[dict[str, Any]]:
    return [{"type": "image", "image": Image.new("RGB", (width, height))} for width, height in sizes]


def _rollout(
    tokenizer: Any,
    messages: list[Message],
    environment: FigureEnvironment,
    first: list[int],
    second: list[int] | None,
) -> Rollout:
    turns = [first] if second is None else [first, second]
    texts = [_text(tokenizer, turn) for turn in turns]
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


def _text(tokenizer: Any, turn: list[int]) -> str:
    return str(tokenizer.decode(turn, skip_special_tokens=True))
