"""Trainer mixin that records every rollout's prompt and tool turn while TRL's generation loop runs.

The records are what the attribution and the verifier work on. The mixin also tokenizes equal prompts once, logs
metrics of our own and times the parts of a step. Put it in front of any ``GRPOTrainer`` of a Qwen2.5-VL with tools or
environments. The overridden methods are private to TRL, so its version is pinned and a test asserts their signatures.

B: rollouts of the batch, groups consecutive. L: tokens of a prompt.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import gather_object
from torch import Tensor
from trl.data_utils import prepare_multimodal_messages

from iapo.data.prompts import Message
from iapo.data.selection import DatasetRow
from iapo.models.interfaces import QwenVL
from iapo.rollout.turns import PromptInputs, ToolTurn
from iapo.tools.parsing import parse_turn
from iapo.types import CallStatus

if TYPE_CHECKING:
    from PIL.Image import Image
    from trl import GRPOTrainer as _Trainer
else:
    _Trainer = object


class RolloutRow(DatasetRow, total=False):
    """A dataset row repeated for one rollout, with the columns that the trainers add for the reward functions."""

    call_status: CallStatus
    """What became of the rollout's tool turn: ``none``, ``malformed``, ``failed`` or ``executed``."""
    verdict: float
    """With a verifier, as ``trm``: its verdict, 0.0 or 1.0; NaN where the verifier failed."""
    prompt_key: str
    """With the teacher's cache, as ``iapo``: address of the prompt's rows in it."""
    student_block_sums: list[float] | None
    """The same: block sums of the student's attribution; None where the call was not attributed."""
    teacher_block_sums: list[float] | None
    """The same: block sums of the teacher's attribution; None where there is nothing to compare with."""
    cache_hit: str | None
    """The same: how near the teacher's row is to the rollout's call, by :data:`iapo.teacher.cache.HIT_KINDS`; None
    without a call that was looked up."""


class RolloutIndexMixin(_Trainer):
    """Mixin that adds each row's place in TRL's batch, which stays with it when TRL shuffles and splits the rows."""

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output = super()._generate_and_score_completions(inputs)
        return {"rollout_index": torch.arange(len(inputs))} | output


_MEMO_BYTES = 2**29
"""Pixels of tokenized prompts that are kept from step to step; more would fill a node's memory in a long run."""


class TurnMixin(RolloutIndexMixin):
    """Mixin that keeps each rollout's prompt and first turn, tokenizes equal prompts once, and logs timings."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._prompt_memo: dict[tuple[object, ...], PromptInputs] = {}
        self._prompt_inputs: list[PromptInputs] = []
        self._rows: Sequence[Mapping[str, Any]] = []
        self.tool_turns: list[ToolTurn] = []
        """[B] first turn of each rollout, in the order of the batch."""
        self._seconds: dict[str, float] = defaultdict(float)
        self._recorded: dict[str, list[float]] = defaultdict(list)
        super().__init__(*args, **kwargs)

    @property
    def group_size(self) -> int:
        """Rollouts per prompt, with TRL's default filled in."""
        return int(self.num_generations or 1)

    @property
    def policy(self) -> QwenVL:
        """The trained Qwen2.5-VL itself, without the wrappers of parallel training and adapters."""
        model: Any = self.accelerator.unwrap_model(self.model)
        # Called at every step, and accelerate's `is_peft_model` searches for the package each time.
        policy: QwenVL = model.get_base_model() if hasattr(model, "get_base_model") else model
        return policy

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Add the wall-clock time of a ``with`` block to this step's metric ``seconds/<part>``."""
        started = time.perf_counter()
        yield
        self._seconds[part] += time.perf_counter() - started

    def record(self, name: str, value: float) -> None:
        """Log a metric of this step; values are averaged over the processes."""
        self._recorded[name].append(value)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log TRL's metrics of a step together with the recorded ones and the timings."""
        for part, seconds in self._seconds.items():
            self.record(f"seconds/{part}", seconds)
        self._seconds.clear()
        for metrics in gather_object([dict(self._recorded)]):
            for name, values in metrics.items():
                self._metrics["train"][name].extend(values)
        self._recorded.clear()
        super().log(logs, start_time)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self._rows = inputs
        if sum(_pixel_bytes(prompt) for prompt in self._prompt_memo.values()) > _MEMO_BYTES:
            self._prompt_memo.clear()
        return super()._generate_and_score_completions(inputs)

    def _tokenize_prompts(
        self, prompts: list[list[Message]]
    ) -> tuple[list[list[int]], list[list[Image]] | None, dict[str, Any]]:
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

    def _encode_prompt(self, prompt: list[Message], environment: str | None, row: Mapping[str, Any]) -> PromptInputs:
        # TRL chooses the tools of a prompt by the batch's environments, so the batch becomes this one prompt.
        self._batch_environments = [environment]
        ids, _, fields = super()._tokenize_prompts([prompt])
        tools = self.tools if self.environment_factories is None else self._env_tools[environment]
        return PromptInputs(list(ids[0]), fields, self._block_ids(prompt, tools or [], ids[0], row))

    def _block_ids(self, prompt: list[Message], tools: list[Any], ids: list[int], row: Mapping[str, Any]) -> list[int]:
        """Return the block of each prompt token [L]; empty here, where nothing is attributed."""
        return []

    def _generate(self, prompts: list[list[Message]]) -> tuple[Any, ...]:
        with self.timed("generation"):
            output: tuple[Any, ...] = super()._generate(prompts)
        # The tuple grows from release to release of TRL; only the positions of the first entries are stable.
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


def _pixel_bytes(prompt: PromptInputs) -> int:
    return sum(value.nbytes for value in prompt.fields.values() if isinstance(value, Tensor))


def _prompt_identity(prompt: list[Message]) -> tuple[object, ...]:
    """Return a hashable key that is equal for prompts with the same text and the same pixels."""
    return tuple((message["role"], *map(_part_identity, message["content"])) for message in prompt)


def _part_identity(part: Mapping[str, Any]) -> object:
    if part["type"] == "image":
        return part["image"].size, part["image"].tobytes()
    return part["text"]


def _images(prompts: list[list[Message]]) -> list[list[Image]] | None:
    images = [
        [part["image"] for message in prompt for part in message["content"] if part["type"] == "image"]
        for prompt in prompts
    ]
    return images if any(images) else None
