"""TRL's GRPO trainer with a seam for attribution.

``FigureTrainer`` keeps what each rollout was made of, guards against sampled image tokens and logs tool
use; ``AttributionMixin`` attributes the batch's calls and hands students' and teachers' block sums to the
reward functions as two more columns. Loss, advantages, tool loop and resuming stay TRL's. The overridden
methods are private to TRL, so the version is pinned and a test asserts their signatures.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback
from trl import GRPOTrainer

from iapo.alignment import BLOCKS, distribution
from iapo.attribution import attribute
from iapo.blocks import NO_BLOCK, block_ids
from iapo.config import AttributionConfig
from iapo.env import FigureEnvironment, attempts_call
from iapo.teacher_cache import TeacherCache, prompt_key
from iapo.tools import parse_turn
from iapo.types import ToolCall

if TYPE_CHECKING:
    from iapo.trainer import FigureTrainer as _Trainer
else:
    _Trainer = object


@dataclass(frozen=True)
class PromptInputs:
    """A tokenized prompt, kept because the same few prompts come back every epoch."""

    input_ids: list[int]
    fields: dict[str, Any]
    """The processor's other outputs: ``pixel_values``, ``image_grid_thw``, …"""
    block_ids: list[int]


@dataclass(frozen=True)
class ToolTurn:
    """The first turn of one rollout."""

    prompt: PromptInputs
    ids: list[int]
    text: str
    calls: list[ToolCall] = field(default_factory=list)
    """Empty where the turn calls no tool, or a call in it is malformed."""


class FigureTrainer(GRPOTrainer):
    """GRPO over figure environments: memoised tokenization, guards, tool and time figures in the log."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.finished_epochs = 0
        """Epochs that a resumed run has behind it; set before ``train``."""
        self._prompt_memo: dict[Any, PromptInputs] = {}
        self._suffix_memo: dict[Any, list[int]] = {}
        self._prompt_inputs: list[PromptInputs] = []
        self.tool_turns: list[ToolTurn] = []
        self._seconds: dict[str, float] = defaultdict(float)
        # It would print every log line; the progress callback says the same in one readable line.
        self.remove_callback(PrinterCallback)

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Add a block's wall time to this step's ``seconds/<part>``."""
        started = time.perf_counter()
        yield
        self._seconds[part] += time.perf_counter() - started

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[Any, Any, dict[str, Any]]:
        environments = self._batch_environments
        self._prompt_inputs = []
        for prompt, environment in zip(prompts, environments, strict=True):
            key = (environment, _prompt_identity(prompt))
            if key not in self._prompt_memo:
                self._prompt_memo[key] = self._encode_prompt(prompt, environment)
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

    def _encode_prompt(self, prompt: list[Any], environment: Any) -> PromptInputs:
        self._batch_environments = [environment]
        ids, _, fields = super()._tokenize_prompts([prompt])
        blocks = block_ids(self.processing_class, prompt, self._env_tools[environment], ids[0])
        return PromptInputs(list(ids[0]), fields, blocks)

    def _get_tool_suffix_ids(self, tool_messages: list[Any]) -> list[int]:
        # Only an image's size reaches the token ids, so equal sizes share one rendering.
        key = tuple(
            tuple(part["image"].size if part["type"] == "image" else part["text"] for part in content)
            if isinstance(content := message["content"], list)
            else content
            for message in tool_messages
        )
        if key not in self._suffix_memo:
            self._suffix_memo[key] = list(super()._get_tool_suffix_ids(tool_messages))
        return list(self._suffix_memo[key])

    def _generate(self, prompts: list[Any]) -> Any:
        with self.timed("generation"):
            output = super()._generate(prompts)
        # The tuple grows between releases; its first entries have kept their places.
        _, completion_ids, tool_mask, *_ = output
        self.tool_turns = [
            self._tool_turn(inputs, ids, mask)
            for inputs, ids, mask in zip(self._prompt_inputs, completion_ids, tool_mask, strict=True)
        ]
        return output

    def _tool_turn(self, prompt: PromptInputs, completion_ids: list[int], tool_mask: list[int]) -> ToolTurn:
        length = tool_mask.index(0) if 0 in tool_mask else len(completion_ids)
        ids = completion_ids[:length]
        text = self._tokenizer.decode(ids, skip_special_tokens=True)
        return ToolTurn(prompt, ids, text, parse_turn(text).calls)

    def _calculate_rewards(self, inputs: Any, *args: Any) -> Tensor:
        attempted = [attempts_call(turn.text) for turn in self.tool_turns]
        succeeded = [environment.succeeded for environment in _environments(self)]
        self._log("tools/call_rate", _mean(attempted))
        self._log("tools/success_rate", sum(succeeded) / max(1, sum(attempted)))
        self._log(
            "tools/malformed_rate",
            _mean([a and not turn.calls for a, turn in zip(attempted, self.tool_turns, strict=True)]),
        )
        with self.timed("rewards"):
            return super()._calculate_rewards(inputs, *args)

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        if inputs.get("pixel_values") is None:
            # TRL drops a batch's pixels without a word when a rollout samples an image token.
            raise RuntimeError(
                f"step {self.state.global_step}: the batch reached the loss without pixel values; expected the "
                "figures of its prompts. A sampled image token does this: keep `suppress_tokens` in "
                "`generation_kwargs`."
            )
        with self.timed("loss"):
            return super()._compute_loss(model, inputs)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """TRL's step, timed as a whole."""
        with self.timed("step"):
            return super().training_step(*args, **kwargs)

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        sampler = super()._get_train_sampler(dataset)
        # Every epoch draws one order of the prompts from the sampler's generator, which no checkpoint holds.
        for _ in range(self.finished_epochs):
            next(iter(sampler))
        return sampler

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        # transformers saves Qwen2.5-VL under renamed keys and loads checkpoints by plain names, not strictly, so
        # a resumed run would silently start from the first weights (seen with 5.17). `from_pretrained` renames.
        target: Any = model if model is not None else self.model
        saved = type(target).from_pretrained(resume_from_checkpoint, dtype=target.dtype)
        target.load_state_dict(saved.state_dict())

    def _log(self, name: str, value: float) -> None:
        self._metrics["train"][name].append(value)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """TRL's log with the step's seconds by part."""
        for part, seconds in self._seconds.items():
            self._log(f"seconds/{part}", seconds)
        self._seconds.clear()
        super().log(logs, start_time)


class AttributionMixin(_Trainer):
    """Adds the columns ``prompt_key``, ``student_block_sums`` and ``teacher_block_sums`` to the rewards.

    Mix into a :class:`FigureTrainer`; identical calls of a group are attributed once.
    """

    def __init__(
        self,
        *args: Any,
        cache: TeacherCache,
        attribution: AttributionConfig,
        smoothing: float,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            args: the trainer's own.
            cache: the teacher's rows for the training prompts.
            attribution: the student's settings; the baseline must be the teacher's.
            smoothing: for the logged block shares.
            kwargs: the trainer's own.
        """
        super().__init__(*args, **kwargs)
        self._cache = cache
        self._attribution = attribution
        self._smoothing = smoothing
        self._key_memo: dict[int, str] = {}

    def _calculate_rewards(self, inputs: list[dict[str, Any]], *args: Any) -> Tensor:
        with self.timed("attribution"):
            self._attribute(inputs)
        return super()._calculate_rewards(inputs, *args)

    def _attribute(self, inputs: list[dict[str, Any]]) -> None:
        turns: list[ToolTurn] = self.tool_turns
        called = [i for i, turn in enumerate(turns) if turn.calls]
        distinct = {(id(turns[i].prompt), tuple(turns[i].ids)): turns[i] for i in called}
        sums: dict[Any, list[float]] = {}
        if distinct:
            batch = calls_batch(list(distinct.values()), self._tokenizer, self.accelerator.device)
            result = attribute(self.model, batch, config=self._attribution)
            sums = dict(zip(distinct, result.signed.tolist(), strict=True))
            self._log_attribution(result.signed, result.residual)
        hits: dict[str, int] = defaultdict(int)
        for row, turn in zip(inputs, turns, strict=True):
            row["prompt_key"] = self._prompt_key(turn.prompt)
            row["student_block_sums"] = sums.get((id(turn.prompt), tuple(turn.ids)))
            hit = self._cache.lookup(row["prompt_key"], turn.calls[0]) if turn.calls else None
            row["teacher_block_sums"] = None if hit is None else list(hit.signed)
            if turn.calls:
                hits["missing" if hit is None else hit.kind] += 1
        for kind in ("exact", "same_tool", "nearest", "missing"):
            self._log(f"cache/{kind}", hits[kind] / max(1, len(called)))

    def _prompt_key(self, prompt: PromptInputs) -> str:
        if id(prompt) not in self._key_memo:
            self._key_memo[id(prompt)] = prompt_key(
                self._cache.fingerprint,
                prompt.input_ids,
                prompt.fields["pixel_values"],
                prompt.fields["image_grid_thw"],
            )
        return self._key_memo[id(prompt)]

    def _log_attribution(self, signed: Tensor, residual: Tensor) -> None:
        shares = distribution(signed, self._smoothing).mean(0)
        for block, share in zip(BLOCKS, shares.tolist(), strict=True):
            self._log(f"attribution/share_{block}", share)
        self._log("attribution/residual_median", residual.median().item())
        self._log("attribution/distinct_calls", float(len(signed)))


class AlignmentTrainer(AttributionMixin, FigureTrainer):
    """The trainer of methods that compare the student's attribution with the teacher's."""


class MetricsCallback(TrainerCallback):
    """Passes each step's figures on: ``write(step, figures)``."""

    def __init__(self, write: Callable[[int, dict[str, float]], None]) -> None:
        self._write = write

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Called by transformers after every step."""
        figures = {k: v for k, v in (logs or {}).items() if isinstance(v, int | float)}
        if "reward" in figures:
            self._write(state.global_step, figures)


def calls_batch(turns: Sequence[ToolTurn], tokenizer: Any, device: Any) -> dict[str, Tensor]:
    """Prompts and tool turns as one left-padded batch for :func:`iapo.attribution.attribute`.

    Args:
        turns: [B] turns that call tools.
        tokenizer: for the pad token and the call's tags.
        device: where the tensors go.

    Returns:
        ``input_ids, attention_mask, mm_token_type_ids, target_mask, block_ids`` [B, L],
        ``pixel_values`` [patches, channels], ``image_grid_thw`` [images, 3].
    """
    lengths = [len(turn.prompt.input_ids) + len(turn.ids) for turn in turns]
    shape = (len(turns), max(lengths))
    input_ids = torch.full(shape, tokenizer.pad_token_id)
    blocks = torch.full(shape, NO_BLOCK)
    attention = torch.zeros(shape, dtype=torch.long)
    target = torch.zeros(shape, dtype=torch.bool)
    image = torch.zeros(shape, dtype=torch.long)
    for i, (turn, length) in enumerate(zip(turns, lengths, strict=True)):
        row = slice(shape[1] - length, None)
        end_of_prompt = shape[1] - len(turn.ids)
        input_ids[i, row] = torch.tensor(turn.prompt.input_ids + turn.ids)
        blocks[i, shape[1] - length : end_of_prompt] = torch.tensor(turn.prompt.block_ids)
        attention[i, row] = 1
        target[i, end_of_prompt:] = torch.tensor(call_tokens(turn.ids, tokenizer))
        image[i, shape[1] - length : end_of_prompt] = torch.tensor(turn.prompt.fields["mm_token_type_ids"][0])
    batch = {
        "input_ids": input_ids,
        "attention_mask": attention,
        "mm_token_type_ids": image,
        "target_mask": target,
        "block_ids": blocks,
        "pixel_values": torch.cat([turn.prompt.fields["pixel_values"] for turn in turns]),
        "image_grid_thw": torch.cat([turn.prompt.fields["image_grid_thw"] for turn in turns]),
    }
    return {name: tensor.to(device) for name, tensor in batch.items()}


def call_tokens(ids: Sequence[int], tokenizer: Any) -> list[bool]:
    """Which tokens of a turn belong to its tool calls, tags included; text around them is context."""
    opening, closing = tokenizer.convert_tokens_to_ids(["<tool_call>", "</tool_call>"])
    mask, inside = [], False
    for token in ids:
        inside = inside or token == opening
        mask.append(inside)
        inside = inside and token != closing
    return mask


def _environments(trainer: Any) -> Sequence[FigureEnvironment]:
    """One per rollout; TRL types them as None until the first batch."""
    return trainer.environments


def _prompt_identity(prompt: list[Any]) -> tuple[Any, ...]:
    return tuple((message["role"], *map(_part_identity, message["content"])) for message in prompt)


def _part_identity(part: dict[str, Any]) -> Any:
    if part["type"] == "image":
        return part["image"].size, part["image"].tobytes()
    return part["text"]


def _images(prompts: list[Any]) -> list[list[Any]]:
    return [
        [part["image"] for message in prompt for part in message["content"] if part["type"] == "image"]
        for prompt in prompts
    ]


def _mean(values: Sequence[bool]) -> float:
    return sum(values) / max(1, len(values))
