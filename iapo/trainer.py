"""TRL's GRPO trainer over figures: guards, memoised rendering, and figures of every step.

Loss, advantages, tool loop and resuming stay TRL's. The overridden methods are private to TRL, so the
version is pinned and a test asserts their signatures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from accelerate.utils import is_peft_model
from torch import Tensor
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback
from transformers.utils import get_json_schema
from trl import GRPOTrainer

from iapo.env import FigureEnvironment, attempts_call
from iapo.faults import GuardMixin
from iapo.tools import parse_turn
from iapo.turns import TurnMixin
from iapo.types import CallStatus
from iapo.vllm_rollouts import VllmMixin

TrainTurns = Literal["both", "tool", "answer"]


class FigureTrainer(TurnMixin, GuardMixin, VllmMixin, GRPOTrainer):
    """GRPO over figure environments: memoised tokenization, guards, tool and reward figures in the log."""

    def __init__(self, *args: Any, train_turns: TrainTurns = "both", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._train_turns = train_turns
        self.finished_epochs = 0
        """Epochs that a resumed run has behind it; set before ``train``."""
        self._suffix_memo: dict[Any, list[int]] = {}
        # TRL would make the schemas of a prompt's tools again for every completion that it parses: a tenth of a step.
        self._env_tools = {
            name: [get_json_schema(tool) for tool in tools] for name, tools in getattr(self, "_env_tools", {}).items()
        }
        # It would print every log line; the progress callback says the same in one readable line.
        self.remove_callback(PrinterCallback)

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

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Any:
        output = super()._generate_and_score_completions(inputs)
        if self._train_turns != "both":
            mask = trained_tokens(output["tool_mask"], self._train_turns)
            output["tool_mask"] = mask
            # TRL divides by the tokens that reach the loss, over all processes.
            tokens = (output["completion_mask"] * mask).sum()
            output["num_items_in_batch"] = self.accelerator.gather(tokens).sum()
        return output

    def _calculate_rewards(self, inputs: Any, *args: Any) -> Tensor:
        statuses = [
            call_status(turn.text, environment.succeeded)
            for turn, environment in zip(self.tool_turns, _environments(self), strict=True)
        ]
        for row, status in zip(inputs, statuses, strict=True):
            row["call_status"] = status
        attempted = len(statuses) - statuses.count("none")
        self.record("tools/call_rate", attempted / max(1, len(statuses)))
        self.record("tools/success_rate", statuses.count("executed") / max(1, attempted))
        self.record("tools/malformed_rate", statuses.count("malformed") / max(1, len(statuses)))
        with self.timed("rewards"):
            rewards = super()._calculate_rewards(inputs, *args)
        figures = reward_parts(rewards, self.reward_weights, self.group_size, self.reward_func_names)
        for name, value in figures.items():
            self.record(name, value)
        return rewards

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

    def _load_optimizer_and_scheduler(self, checkpoint: Any) -> None:
        if self.args.device.type == "cpu":
            # With several processes accelerate calls it cpu:0, which torch cannot restore a tensor to.
            vars(self.args)["_setup_devices"] = torch.device("cpu")
        super()._load_optimizer_and_scheduler(checkpoint)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        # transformers saves Qwen2.5-VL under renamed keys and loads checkpoints by plain names, not strictly, so
        # a resumed run would silently start from the first weights (seen with 5.17). `from_pretrained` renames.
        # Shards and adapters are saved under plain names.
        target: Any = model if model is not None else self.model
        if self.is_fsdp_enabled or self.is_deepspeed_enabled or is_peft_model(target):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        saved = type(target).from_pretrained(resume_from_checkpoint, dtype=target.dtype)
        target.load_state_dict(saved.state_dict())


def call_status(text: str, succeeded: bool) -> CallStatus:
    """What became of a first turn.

    Args:
        text: of the turn.
        succeeded: whether its environment ran tools and none failed.
    """
    if not attempts_call(text):
        return "none"
    if parse_turn(text).error is not None:
        return "malformed"
    return "executed" if succeeded else "failed"


def trained_tokens(tool_mask: Tensor, turns: TrainTurns) -> Tensor:
    """The part of TRL's mask that belongs to the turns that are trained.

    Args:
        tool_mask: [B, L] 0 for the tool's answer, 1 for the policy's turns and the padding on the right.
        turns: ``tool``: all before the first 0. ``answer``: all behind the last. A row without a 0 is one turn.
    """
    if turns == "tool":
        return tool_mask.cumprod(1)
    return tool_mask.flip(1).cumprod(1).flip(1) if turns == "answer" else tool_mask


def reward_parts(rewards: Tensor, weights: Tensor, group_size: int, names: Sequence[str]) -> dict[str, float]:
    """How much each part of the reward decides: only differences inside a group reach the advantage.

    Args:
        rewards: [rollouts, parts] unweighted; groups are consecutive.
        weights: [parts]
        group_size: rollouts a group.
        names: of the parts.

    Returns:
        ``advantage/<part>_std``, the root of the mean within-group variance of the weighted part;
        ``advantage/<part>_share``, its covariance with the whole reward over the whole's variance, averaged
        over the groups that vary (the shares add up to 1); ``advantage/<part>_alone``, the share of groups in
        which nothing else varies; ``advantage/flat_groups``, the share in which nothing does.
    """
    parts = (rewards.double() * weights.to(rewards).double()).nan_to_num().view(-1, group_size, len(names))
    parts = parts - parts.mean(1, keepdim=True)
    whole = parts.sum(-1)
    variance = whole.square().mean(1)
    varies = variance > _FLAT
    moving = parts.square().mean(1) > _FLAT
    figures = {"advantage/flat_groups": 1 - varies.double().mean().item()}
    for i, name in enumerate(names):
        part = parts[..., i]
        shares = (part * whole).mean(1)[varies] / variance[varies]
        figures[f"advantage/{name}_std"] = part.square().mean().sqrt().item()
        figures[f"advantage/{name}_share"] = shares.mean().item() if len(shares) else 0.0
        figures[f"advantage/{name}_alone"] = (moving[:, i] & (moving.sum(1) == 1)).double().mean().item()
    return figures


_FLAT = 1e-12
"""Variance below which a group counts as constant; rounding leaves less."""


class MetricsCallback(TrainerCallback):
    """Passes each step's figures on: ``write(step, figures)``."""

    def __init__(self, write: Callable[[int, dict[str, float]], None]) -> None:
        self._write = write

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Called by transformers after every step."""
        figures = {k: v for k, v in (logs or {}).items() if isinstance(v, int | float)}
        if "reward" in figures:
            self._write(state.global_step, figures)


def _environments(trainer: Any) -> Sequence[FigureEnvironment]:
    """One per rollout; TRL types them as None until the first batch."""
    return trainer.environments
