"""The tool turn of each rollout, recorded while TRL's loop runs, and as a batch to attribute.

``TurnMixin`` goes in front of any ``GRPOTrainer`` of a Qwen2.5-VL with tools or environments. The overridden
methods are private to TRL, so the version is pinned and a test asserts their signatures.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import gather_object
from torch import Tensor
from trl.data_utils import prepare_multimodal_messages

from iapo.blocks import NO_BLOCK, block_ids
from iapo.config_method import Partition
from iapo.data.store import figure_from_json
from iapo.env import tool_schemas
from iapo.processor import IMAGE_TOKEN
from iapo.prompts import prompt_messages
from iapo.rollout import EncodedPrompt
from iapo.teacher_cache import prompt_key
from iapo.tools import parse_turn
from iapo.types import Example, ToolCall

if TYPE_CHECKING:
    from trl import GRPOTrainer as _Trainer
else:
    _Trainer = object


@dataclass(frozen=True)
class PromptInputs:
    """A tokenized prompt, kept because the same few prompts come back every epoch."""

    input_ids: list[int]
    fields: dict[str, Any]
    """The processor's other outputs: ``pixel_values``, ``image_grid_thw``, …"""
    block_ids: list[int]

    @cached_property
    def blocks(self) -> int:
        """How many blocks the prompt has: 4, or more in a finer partition."""
        return max(4, *(block + 1 for block in self.block_ids))

    @cached_property
    def block_lengths(self) -> Tensor:
        """[K] tokens of each block."""
        ids = torch.tensor(self.block_ids)
        return torch.bincount(ids[ids >= 0], minlength=self.blocks)

    def key(self, fingerprint: str) -> str:
        """The address of its rows in the cache with this fingerprint."""
        return prompt_key(
            fingerprint, self.input_ids, self.fields.get("pixel_values"), self.fields.get("image_grid_thw")
        )


@dataclass(frozen=True)
class ToolTurn:
    """The first turn of one rollout."""

    prompt: PromptInputs
    ids: list[int]
    text: str
    calls: list[ToolCall] = field(default_factory=list)
    """Empty where the turn calls no tool, or a call in it is malformed."""

    @property
    def length(self) -> int:
        """Tokens of the prompt and the turn."""
        return len(self.prompt.input_ids) + len(self.ids)


class TurnMixin(_Trainer):
    """Keeps each rollout's prompt and first turn, renders equal prompts once, and times parts of a step."""

    partition: Partition = "prit"
    """Which blocks the prompts are split into."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._prompt_memo: dict[Any, PromptInputs] = {}
        self._prompt_inputs: list[PromptInputs] = []
        self._rows: Sequence[dict[str, Any]] = []
        self.tool_turns: list[ToolTurn] = []
        """One a rollout, in the order of the batch."""
        self._seconds: dict[str, float] = defaultdict(float)
        self._figures: dict[str, list[float]] = defaultdict(list)
        super().__init__(*args, **kwargs)

    @property
    def group_size(self) -> int:
        """Rollouts a prompt; TRL has filled in its default by now."""
        return int(self.num_generations or 1)

    @property
    def policy(self) -> Any:
        """The trained Qwen2.5-VL itself, out of what parallel training and adapters wrap around it."""
        model: Any = self.accelerator.unwrap_model(self.model)
        # Asked at every step, and accelerate's `is_peft_model` looks for the package each time.
        return model.get_base_model() if hasattr(model, "get_base_model") else model

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Add a block's wall time to this step's ``seconds/<part>``."""
        started = time.perf_counter()
        yield
        self._seconds[part] += time.perf_counter() - started

    def record(self, name: str, value: float) -> None:
        """Log one figure with this step's others, averaged over the processes."""
        self._figures[name].append(value)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """TRL's log with the step's seconds by part."""
        for part, seconds in self._seconds.items():
            self.record(f"seconds/{part}", seconds)
        self._seconds.clear()
        for figures in gather_object([dict(self._figures)]):
            for name, values in figures.items():
                self._metrics["train"][name].extend(values)
        self._figures.clear()
        super().log(logs, start_time)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Any:
        self._rows = inputs
        return super()._generate_and_score_completions(inputs)

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[Any, Any, dict[str, Any]]:
        prompts = [prepare_multimodal_messages(prompt) for prompt in prompts]
        by_environment = self.environment_factories is not None
        environments: list[Any] = self._batch_environments if by_environment else [None] * len(prompts)
        self._prompt_inputs = []
        for prompt, environment, row in zip(prompts, environments, self._rows, strict=True):
            key = (environment, _prompt_identity(prompt))
            if key not in self._prompt_memo:
                self._prompt_memo[key] = self._encode_prompt(prompt, environment, row)
            self._prompt_inputs.append(self._prompt_memo[key])
        self._batch_environments = environments
        fields: dict[str, list[Any]] = defaultdict(list)
        for inputs in self._prompt_inputs:
            for name, value in inputs.fields.items():
                fields[name].append(value)
        merged = {
            name: torch.cat(values) if isinstance(values[0], Tensor) else [row for rows in values for row in rows]
            for name, values in fields.items()
        }
        return [list(inputs.input_ids) for inputs in self._prompt_inputs], _images(prompts), merged

    def _encode_prompt(self, prompt: list[Any], environment: Any, row: dict[str, Any]) -> PromptInputs:
        self._batch_environments = [environment]
        ids, _, fields = super()._tokenize_prompts([prompt])
        tools = self.tools if self.environment_factories is None else self._env_tools[environment]
        figure = figure_from_json(row["figure"]) if self.partition == "labels" else None
        blocks = block_ids(self.processing_class, prompt, tools, ids[0], partition=self.partition, figure=figure)
        return PromptInputs(list(ids[0]), fields, blocks)

    def _generate(self, prompts: list[Any]) -> Any:
        with self.timed("generation"):
            output = super()._generate(prompts)
        # The tuple grows between releases; its first entries have kept their places.
        _, completion_ids, tool_mask, *_ = output
        self.tool_turns = [
            self._tool_turn(inputs, ids, mask)
            for inputs, ids, mask in zip(
                self._prompt_inputs,
                completion_ids,
                tool_mask or [[1] * len(ids) for ids in completion_ids],
                strict=True,
            )
        ]
        return output

    def _tool_turn(self, prompt: PromptInputs, completion_ids: list[int], tool_mask: list[int]) -> ToolTurn:
        length = tool_mask.index(0) if 0 in tool_mask else len(completion_ids)
        ids = completion_ids[:length]
        text = self._tokenizer.decode(ids, skip_special_tokens=True)
        return ToolTurn(prompt, ids, text, parse_turn(text).calls)


def example_inputs(
    processor: Any, example: Example, prompt: EncodedPrompt, partition: Partition = "prit"
) -> PromptInputs:
    """The same record for a prompt outside training.

    Args:
        processor: the model's.
        example: what is asked.
        prompt: it, encoded.
        partition: which blocks it is split into.
    """
    image_id = processor.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    fields = {
        "pixel_values": prompt.pixel_values,
        "image_grid_thw": prompt.image_grid_thw,
        "mm_token_type_ids": [[int(token == image_id) for token in prompt.input_ids]],
    }
    figure = example.figure
    tools = list(tool_schemas(figure.kind))
    blocks = block_ids(processor, prompt_messages(example), tools, prompt.input_ids, partition=partition, figure=figure)
    return PromptInputs(prompt.input_ids, fields, blocks)


def calls_batch(turns: Sequence[ToolTurn], tokenizer: Any, device: Any, target: str = "call") -> dict[str, Tensor]:
    """Prompts and tool turns as one left-padded batch for :func:`iapo.attribution.attribute`.

    Turns that share a :class:`PromptInputs` share its images, which pass the vision tower once.

    Args:
        turns: [B] turns that call tools.
        tokenizer: for the pad token and the call's tags.
        device: where the tensors go.
        target: ``call`` or ``turn``: which of a turn's tokens are attributed.

    Returns:
        ``input_ids, attention_mask, mm_token_type_ids, target_mask, block_ids`` [B, L],
        ``prompt_rows, turn_lengths`` [B], ``pixel_values`` [patches, channels], ``image_grid_thw`` [images, 3],
        ``image_rows`` [images shown], ``image_counts`` [B].
    """
    width = max(turn.length for turn in turns)
    prompts = list(dict.fromkeys(id(turn.prompt) for turn in turns))

    def padded(rows: Iterable[list[Any]], filler: Any) -> Tensor:
        return torch.tensor([[filler] * (width - len(row)) + row for row in rows])

    calls = [call_tokens(turn.ids, tokenizer) if target == "call" else [True] * len(turn.ids) for turn in turns]
    images = [turn.prompt.fields["mm_token_type_ids"][0] for turn in turns]
    batch = {
        "input_ids": padded((turn.prompt.input_ids + turn.ids for turn in turns), tokenizer.pad_token_id),
        "attention_mask": padded(([1] * turn.length for turn in turns), 0),
        "mm_token_type_ids": padded(
            ([*image, *[0] * len(turn.ids)] for image, turn in zip(images, turns, strict=True)), 0
        ),
        "target_mask": padded(
            ([False] * len(turn.prompt.input_ids) + call for call, turn in zip(calls, turns, strict=True)), False
        ),
        "block_ids": padded((turn.prompt.block_ids + [NO_BLOCK] * len(turn.ids) for turn in turns), NO_BLOCK),
        "prompt_rows": torch.tensor([prompts.index(id(turn.prompt)) for turn in turns]),
        "turn_lengths": torch.tensor([len(turn.ids) for turn in turns]),
        **_shared_images(turns),
    }
    return {name: tensor.to(device) for name, tensor in batch.items()}


def _shared_images(turns: Sequence[ToolTurn]) -> dict[str, Tensor]:
    prompts = {id(turn.prompt): turn.prompt for turn in turns if "pixel_values" in turn.prompt.fields}
    if not prompts:
        return {}
    first: dict[int, int] = {}
    count = 0
    for key, prompt in prompts.items():
        first[key] = count
        count += len(prompt.fields["image_grid_thw"])
    rows = [
        first[id(turn.prompt)] + i
        for turn in turns
        if id(turn.prompt) in first
        for i in range(len(turn.prompt.fields["image_grid_thw"]))
    ]
    counts = [len(turn.prompt.fields.get("image_grid_thw", ())) for turn in turns]
    return {
        "pixel_values": torch.cat([prompt.fields["pixel_values"] for prompt in prompts.values()]),
        "image_grid_thw": torch.cat([prompt.fields["image_grid_thw"] for prompt in prompts.values()]),
        "image_rows": torch.tensor(rows),
        "image_counts": torch.tensor(counts),
    }


def distinct_turns(turns: Sequence[ToolTurn]) -> tuple[list[ToolTurn], list[int]]:
    """Equal turns of one prompt once, and per turn which of these it is."""
    places: dict[tuple[int, tuple[int, ...]], int] = {}
    distinct: list[ToolTurn] = []
    for turn in turns:
        if places.setdefault((id(turn.prompt), tuple(turn.ids)), len(distinct)) == len(distinct):
            distinct.append(turn)
    return distinct, [places[id(turn.prompt), tuple(turn.ids)] for turn in turns]


def call_tokens(ids: Sequence[int], tokenizer: Any) -> list[bool]:
    """Which tokens of a turn belong to its tool calls, tags included; text around them is context."""
    opening, closing = tokenizer.convert_tokens_to_ids(["<tool_call>", "</tool_call>"])
    mask, inside = [], False
    for token in ids:
        inside = inside or token == opening
        mask.append(inside)
        inside = inside and token != closing
    return mask


def _prompt_identity(prompt: list[Any]) -> tuple[Any, ...]:
    return tuple((message["role"], *map(_part_identity, message["content"])) for message in prompt)


def _part_identity(part: dict[str, Any]) -> Any:
    if part["type"] == "image":
        return part["image"].size, part["image"].tobytes()
    return part["text"]


def _images(prompts: list[Any]) -> list[list[Any]] | None:
    images = [
        [part["image"] for message in prompt for part in message["content"] if part["type"] == "image"]
        for prompt in prompts
    ]
    return images if any(images) else None
