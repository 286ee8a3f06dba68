"""TRL's GRPO trainer over figures: guards, memoised rendering, and figures of every step.

Loss, advantages, tool loop and resuming stay TRL's. The overridden methods are private to TRL, so the
version is pinned and a test asserts their signatures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback
from trl import GRPOTrainer

from iapo.env import FigureEnvironment, attempts_call
from iapo.turns import TurnMixin


class FigureTrainer(TurnMixin, GRPOTrainer):
    """GRPO over figure environments: memoised tokenization, guards, tool and reward figures in the log."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.finished_epochs = 0
        """Epochs that a resumed run has behind it; set before ``train``."""
        self._suffix_memo: dict[Any, list[int]] = {}
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

    def _calculate_rewards(self, inputs: Any, *args: Any) -> Tensor:
        attempted = [attempts_call(turn.text) for turn in self.tool_turns]
        succeeded = [environment.succeeded for environment in _environments(self)]
        self.record("tools/call_rate", _mean(attempted))
        self.record("tools/success_rate", sum(succeeded) / max(1, sum(attempted)))
        self.record(
            "tools/malformed_rate",
            _mean([a and not turn.calls for a, turn in zip(attempted, self.tool_turns, strict=True)]),
        )
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

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        # transformers saves Qwen2.5-VL under renamed keys and loads checkpoints by plain names, not strictly, so
        # a resumed run would silently start from the first weights (seen with 5.17). `from_pretrained` renames.
        target: Any = model if model is not None else self.model
        saved = type(target).from_pretrained(resume_from_checkpoint, dtype=target.dtype)
        target.load_state_dict(saved.state_dict())


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


def _mean(values: Sequence[bool]) -> float:
    return sum(values) / max(1, len(values))
