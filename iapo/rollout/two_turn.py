"""Two-turn rollouts outside training, decoded greedily for evaluation.

As in TRL's loop, the policy writes a turn, the environment answers its tool calls, and the policy writes a second turn.
Token ids are concatenated, never decoded and tokenized again, so both loops feed the model the same ids.

On request, two control answers per question show whether the edited image helped
(:mod:`iapo.rollout.original_image_control`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from PIL import Image
from trl.data_utils import prepare_multimodal_messages

from iapo.data.prompts import Message, open_image
from iapo.data.store import figure_to_json
from iapo.models.interfaces import Processor
from iapo.rollout.encoding import EncodedPrompt, encode_examples, images_of
from iapo.rollout.environment import (
    ENVIRONMENTS,
    FigureEnvironment,
    ImagePart,
    answer_tool_calls,
    attempts_call,
)
from iapo.rollout.generation import Writer, generate_turn, generate_where, turn_text
from iapo.rollout.original_image_control import answer_with_original, answer_without_tools
from iapo.tools.messages import assistant_message
from iapo.tools.parsing import parse_turn
from iapo.tools.registry import tools_for
from iapo.types import Example, ToolCall


@dataclass(frozen=True)
class Rollout:
    """One policy's rollout on one question."""

    messages: list[Message]
    """Assistant and tool messages, with their images."""
    texts: list[str]
    """The assistant's turns as generated, without special tokens."""
    calls: list[ToolCall]
    """The well-formed calls of the first turn, in order."""
    called: bool
    """Whether the first turn contains a tool call, well formed or not."""
    call_ok: bool
    """Whether the first turn made at least one call and all of them were carried out."""
    truncated: bool
    """Whether a turn reached the token limit."""
    text_original: str | None = None
    """Control: the last turn if the tool returns the original image; None if controls were not requested."""
    text_off: str | None = None
    """Control: the only turn if there are no tools; None if controls were not requested."""


def roll_out(
    model: Writer, processor: Processor, examples: Sequence[Example], *, turn_tokens: int, image_help: bool = False
) -> list[Rollout]:
    """Answer a batch of questions greedily, with at most one tool turn each.

    Args:
        model: the policy, in eval mode or in an engine.
        processor: the model's processor.
        examples: [B] questions.
        turn_tokens: maximum length of a turn, in tokens.
        image_help: whether to add the control answers, with the original image and without tools.

    Returns:
        [B] rollouts.
    """
    images = [open_image(example) for example in examples]
    prompts = encode_examples(processor, examples, images)
    first = generate_turn(model, processor, prompts, max_tokens=turn_tokens)
    environments = [start_environment(example, image) for example, image in zip(examples, images, strict=True)]
    texts = [[turn_text(processor.tokenizer, turn)] for turn in first]
    conversations = [
        run_first_turn(text, example, environment)
        for (text,), example, environment in zip(texts, examples, environments, strict=True)
    ]
    continued = {
        i: continue_prompt(processor, prompts[i], first[i], messages[1:])
        for i, messages in enumerate(conversations)
        if len(messages) > 1
    }
    second = generate_where(model, processor, continued, turn_tokens)
    for i, turn in second.items():
        texts[i].append(turn_text(processor.tokenizer, turn))
    end = processor.tokenizer.eos_token_id
    rollouts = [
        collect_rollout(
            conversations[i],
            texts[i],
            environments[i],
            truncated=any(turn[-1:] != [end] for turn in (first[i], second.get(i, [end]))),
        )
        for i in range(len(examples))
    ]
    if not image_help:
        return rollouts
    return with_control_answers(
        rollouts,
        answer_with_original(model, processor, prompts, continued, turn_tokens),
        answer_without_tools(model, processor, examples, images, turn_tokens),
    )


def with_control_answers(rollouts: Sequence[Rollout], original: Mapping[int, str], off: Sequence[str]) -> list[Rollout]:
    """Return rollouts with their control answers.

    Args:
        rollouts: [B] rollouts.
        original: answers with the original image, by the rollout's place in the batch; without an edited image, the
            rollout's own answer is that one.
        off: [B] answers without tools.
    """
    return [
        replace(rollout, text_original=original.get(i, rollout.texts[-1]), text_off=off[i])
        for i, rollout in enumerate(rollouts)
    ]


def start_environment(example: Example, image: Image.Image) -> FigureEnvironment:
    """Return a new environment on a question's figure, whose image is already decoded."""
    environment = ENVIRONMENTS[example.figure.kind]()
    environment.reset(figure=figure_to_json(example.figure), images=[image])
    return environment


def run_first_turn(text: str, example: Example, environment: FigureEnvironment) -> list[Message]:
    """Read the first turn and carry out its calls.

    Args:
        text: text of the turn.
        example: the question, whose figure decides which tools are offered.
        environment: the rollout's environment, after ``reset``.

    Returns:
        The assistant's message, then one tool message per call that :func:`iapo.tools.messages.assistant_message`
        hands on.
    """
    message = assistant_message(text, [tool.name for tool in tools_for(example.figure.kind)])
    return [message, *answer_tool_calls(environment, message.get("tool_calls", []))]


def continue_prompt(
    processor: Processor, prompt: EncodedPrompt, turn: list[int], tool_messages: Sequence[Message]
) -> EncodedPrompt:
    """Append an assistant turn and the tool messages that answer it to a prompt.

    Args:
        processor: the model's processor.
        prompt: the conversation before the turn.
        turn: token ids of the assistant turn, with its end token.
        tool_messages: the tools' answers, with their images.

    Returns:
        The conversation up to the opening of the next assistant turn.
    """
    images = images_of(tool_messages)
    ids = prompt.input_ids + turn + tool_suffix_ids(processor, tool_messages)
    if not images:
        return replace(prompt, input_ids=ids)
    encoded = processor.image_processor(images=list(images), return_tensors="pt")
    return EncodedPrompt(
        ids,
        torch.cat([prompt.pixel_values, encoded["pixel_values"]]),
        torch.cat([prompt.image_grid_thw, encoded["image_grid_thw"]]),
        prompt.images + images,
    )


def tool_suffix_ids(processor: Processor, tool_messages: Sequence[Message]) -> list[int]:
    """Return the token ids of tool messages and of the next turn's opening, as they follow an assistant's end token.

    Args:
        processor: the model's processor.
        tool_messages: the tools' answers, at least one.
    """
    # The ids depend on a message's text or on the sizes of its images, not on their pixels.
    text_or_sizes = [
        content if isinstance(content, str) else [part["image"].size for part in content]
        for content in (message["content"] for message in tool_messages)
    ]
    names = [message["name"] for message in tool_messages]
    return list(_suffix_ids(processor, json.dumps([names, text_or_sizes])))


@lru_cache(maxsize=512)
def _suffix_ids(processor: Processor, key: str) -> tuple[int, ...]:
    """Render the messages that ``key`` describes; cached, because every batch has the same few tool messages."""
    names, text_or_sizes = json.loads(key)
    answers: list[Message] = [
        {"role": "tool", "name": name, "content": content if isinstance(content, str) else _blank_images(content)}
        for name, content in zip(names, text_or_sizes, strict=True)
    ]
    ids = _rendered(processor, _opening(names[0]) + answers, add_generation_prompt=True)
    return tuple(ids[_opening_length(processor, json.dumps(names[0])) :])


def _opening(name: object) -> list[Message]:
    """Return a conversation that ends with a call of this tool, for the tool messages to follow."""
    call = {"type": "function", "function": {"name": name, "arguments": {}}}
    return [{"role": "user", "content": "dummy"}, {"role": "assistant", "content": "", "tool_calls": [call]}]


@lru_cache(maxsize=512)
def _opening_length(processor: Processor, name: str) -> int:
    """Return the number of token ids of :func:`_opening`, up to its last end token; the tool's name is in JSON."""
    ids = _rendered(processor, _opening(json.loads(name)), add_generation_prompt=False)
    return len(ids) - ids[::-1].index(processor.tokenizer.eos_token_id)


def _rendered(processor: Processor, messages: list[Message], *, add_generation_prompt: bool) -> list[int]:
    encoded = processor.apply_chat_template(
        [prepare_multimodal_messages(messages)],
        add_generation_prompt=add_generation_prompt,
        tokenize=True,
        return_dict=True,
    )
    return list(encoded["input_ids"][0])


def _blank_images(sizes: Sequence[Sequence[int]]) -> list[ImagePart]:
    return [{"type": "image", "image": Image.new("RGB", (width, height))} for width, height in sizes]


def collect_rollout(
    messages: list[Message], texts: list[str], environment: FigureEnvironment, *, truncated: bool
) -> Rollout:
    """Return the record of a finished rollout, without controls.

    Args:
        messages: the messages of the first turn, from :func:`run_first_turn`.
        texts: text of each turn; a second one answers the tool messages.
        environment: the rollout's environment.
        truncated: whether a turn reached the token limit.
    """
    return Rollout(
        messages=[*messages, *({"role": "assistant", "content": text} for text in texts[1:])],
        texts=texts,
        calls=parse_turn(texts[0]).calls,
        called=attempts_call(texts[0]),
        call_ok=environment.succeeded,
        truncated=truncated,
    )
