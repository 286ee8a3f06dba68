"""TRL's GRPO trainer for figure environments, extended by guards, memoised tokenization and per-step metrics.

Loss, advantages, the tool loop and resuming are TRL's. The overridden methods are private to TRL, so its version is
pinned and a test asserts their signatures.

B: rollouts. L: tokens of a completion, padded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from accelerate.utils import is_peft_model
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback
from transformers.utils import get_json_schema
from trl import GRPOTrainer

from iapo.config.schema import Config
from iapo.data.prompts import Message
from iapo.rewards.advantages import AdvantageRule
from iapo.rollout.environment import FigureEnvironment
from iapo.rollout.status import call_status
from iapo.training.grpo_config import TermsConfig
from iapo.training.guards import GuardMixin
from iapo.training.host_pixels import HostPixelsMixin
from iapo.training.kept_rollouts import kept_path, kept_rows, write_kept
from iapo.training.rollout_recorder import RolloutRow, TurnMixin
from iapo.training.sampling_ratio import SamplingRatioMixin
from iapo.training.sharded_mixin import ShardedMixin
from iapo.training.trimmed_pass import TrimmedPassMixin
from iapo.training.vllm_mixin import VllmMixin

if TYPE_CHECKING:
    from datasets import Dataset
    from torch.utils.data import Sampler

TrainTurns = Literal["both", "tool", "answer"]
"""Which of a rollout's turns contribute to the loss."""


@dataclass(frozen=True)
class Sources:
    """Directories that a method's rewards read from; None for those that the method does not use."""

    cache: Path | None = None
    """The teacher's attribution cache."""
    teacher: Path | None = None
    """Pretrained directory of the teacher, used as the verifier."""
    replies: Path | None = None
    """Cached replies of the verifier's server."""


class FigureTrainer(
    SamplingRatioMixin, TrimmedPassMixin, TurnMixin, GuardMixin, VllmMixin, HostPixelsMixin, ShardedMixin, GRPOTrainer
):
    """GRPO trainer for figure environments, with guards, memoised tokenization, and tool and reward metrics."""

    def __init__(self, *args: Any, train_turns: TrainTurns = "both", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._train_turns = train_turns
        self._advantage_rule = _advantage_rule(self)
        # TRL normalises the reward without the terms that are added afterwards.
        self.reward_weights = torch.tensor(self._advantage_rule.trl_weights)
        self._rewards = torch.empty(0)
        self._completions: Sequence[Sequence[Message]] = []
        self.finished_epochs = 0
        """Epochs completed before a resume; set it before calling ``train``."""
        self._suffix_memo: dict[tuple[object, ...], list[int]] = {}
        # TRL would rebuild the tools' schemas for every completion that it parses, which takes a tenth of a step.
        self._env_tools = {
            name: [get_json_schema(tool) for tool in tools] for name, tools in getattr(self, "_env_tools", {}).items()
        }
        # It would print every log dictionary; the progress callback prints one readable line instead.
        self.remove_callback(PrinterCallback)

    @classmethod
    def arguments(cls, config: Config, sources: Sources) -> dict[str, Any]:
        """Return the constructor arguments that this trainer takes besides TRL's own.

        Args:
            config: configuration of the run.
            sources: directories that the method reads from.

        Raises:
            ValueError: if a required source is missing.
        """
        return {}

    def write_extras(self, folder: Path) -> None:
        """Write the method's outputs other than the policy, as they are after this step; every process calls it.

        Args:
            folder: the run directory at the end, a checkpoint's before.
        """

    def read_extras(self, checkpoint: Path) -> None:
        """Go on from what :meth:`write_extras` wrote with a checkpoint; every process calls it.

        Args:
            checkpoint: its folder.
        """

    def _get_tool_suffix_ids(self, tool_messages: list[Message]) -> list[int]:
        # The token ids depend on an image's size only, so responses with images of equal sizes share one rendering.
        key = tuple(
            tuple(part["image"].size if part["type"] == "image" else part["text"] for part in content)
            if isinstance(content := message["content"], list)
            else content
            for message in tool_messages
        )
        if key not in self._suffix_memo:
            self._suffix_memo[key] = list(super()._get_tool_suffix_ids(tool_messages))
        return list(self._suffix_memo[key])

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output = super()._generate_and_score_completions(inputs)
        if self._advantage_rule.adds:
            self._add_terms(output)
        if self._train_turns != "both":
            mask = trained_tokens(output["tool_mask"], self._train_turns)
            output["written_mask"], output["tool_mask"] = output["tool_mask"], mask
            # TRL normalises the loss by the number of trained tokens over all processes.
            tokens = (output["completion_mask"] * mask).sum()
            output["num_items_in_batch"] = self.accelerator.gather(tokens).sum()
        self._keep_rollouts(inputs, output["advantages"])
        return output

    def _keep_rollouts(self, rows: Sequence[Any], advantages: Tensor) -> None:
        """Write rollouts of a step after which a checkpoint is saved; the main process writes some of its own."""
        step = self.state.global_step + 1
        is_saved = step % self.args.save_steps == 0 or step == self.args.max_steps
        if not (is_saved and self.accelerator.is_main_process):
            return
        kept = kept_rows(
            step, rows, self.tool_turns, self._completions, self._rewards, advantages, self._advantage_rule
        )
        write_kept(kept_path(Path(self.args.output_dir or ".").parent, step), kept)

    def _add_terms(self, output: dict[str, Any]) -> None:
        """Add the terms that TRL has left out to its advantages, and to the whole reward that it has logged."""
        advantages: Tensor = output["advantages"]
        # The rewards are those of all processes, the advantages those of this one.
        first = len(advantages) * self.accelerator.process_index
        added = self._advantage_rule.added(self._rewards)[first : first + len(advantages)]
        output["advantages"] = advantages + added.to(advantages)
        total = self._advantage_rule.total_rewards(self._rewards)
        self._metrics["train"]["reward"][-1] = total.mean().item()
        self._metrics["train"]["reward_std"][-1] = total.std().item()

    def _calculate_rewards(self, inputs: list[RolloutRow], *args: Any) -> Tensor:
        _, self._completions, *_ = args
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
        self._rewards = rewards
        for name, value in self._advantage_rule.metrics(rewards).items():
            self.record(name, value)
        return rewards

    def _compute_loss(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        if inputs.get("pixel_values") is None:
            # TRL silently drops a batch's pixel values if a rollout sampled an image token.
            raise RuntimeError(
                f"step {self.state.global_step}: the batch reached the loss without pixel values; expected the "
                "figures of its prompts. A sampled image token does this: keep `suppress_tokens` in "
                "`generation_kwargs`."
            )
        with self.timed("loss"):
            return super()._compute_loss(model, inputs)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Take TRL's training step and record its duration."""
        with self.timed("step"):
            return super().training_step(*args, **kwargs)

    def _get_train_sampler(self, dataset: Dataset | None = None) -> Sampler:
        sampler = super()._get_train_sampler(dataset)
        # Every epoch draws one order of the prompts from the sampler's generator, whose state is in no checkpoint.
        for _ in range(self.finished_epochs):
            next(iter(sampler))
        return sampler

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if self.args.device.type == "cpu":
            # With several processes accelerate names the device cpu:0, to which torch cannot restore a tensor.
            vars(self.args)["_setup_devices"] = torch.device("cpu")
        super()._load_optimizer_and_scheduler(checkpoint)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        # transformers 5.17 saves Qwen2.5-VL under renamed keys, but a checkpoint is loaded by the model's own names and
        # not strictly, so a resumed run would silently keep its initial weights. `from_pretrained` maps the names back.
        # Shards and adapters are saved under the model's own names.
        target: Any = model if model is not None else self.model
        if self.is_fsdp_enabled or self.is_deepspeed_enabled or is_peft_model(target):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        saved = type(target).from_pretrained(resume_from_checkpoint, dtype=target.dtype)
        target.load_state_dict(saved.state_dict())


def trained_tokens(tool_mask: Tensor, turns: TrainTurns) -> Tensor:
    """Return the loss mask restricted to the turns that are trained.

    Args:
        tool_mask: [B, L] TRL's mask: 0 for the tool response, 1 for the policy's turns and the padding on the right.
        turns: ``both`` keeps the mask, ``tool`` keeps what precedes the first 0, and ``answer`` what follows the last
            0. A row without a 0 is a single turn and is kept whole.

    Returns:
        [B, L] the mask.
    """
    if turns == "tool":
        return tool_mask.cumprod(1)
    return tool_mask.flip(1).cumprod(1).flip(1) if turns == "answer" else tool_mask


def _advantage_rule(trainer: GRPOTrainer) -> AdvantageRule:
    """Return how a trainer's rewards become advantages; its weights are still those of all terms."""
    arguments: Any = trainer.args
    names = tuple(trainer.reward_func_names)
    forms = arguments.reward_forms if isinstance(arguments, TermsConfig) else None
    return AdvantageRule(
        names,
        tuple(trainer.reward_weights.tolist()),
        tuple(forms or ["reward"] * len(names)),
        int(trainer.num_generations or 1),
        arguments.scale_rewards,
        arguments.multi_objective_aggregation,
    )


class MetricsCallback(TrainerCallback):
    """Trainer callback that calls ``write(step, metrics)`` after every training step."""

    def __init__(self, write: Callable[[int, dict[str, float]], None]) -> None:
        self._write = write

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, object] | None = None,
        **_: object,
    ) -> None:
        """Pass on the numbers of a training step; logs without a reward, such as the final summary, are skipped."""
        metrics: dict[str, float] = {
            name: value for name, value in (logs or {}).items() if isinstance(value, int | float)
        }
        if "reward" in metrics:
            self._write(state.global_step, metrics)


def _environments(trainer: GRPOTrainer) -> Sequence[FigureEnvironment]:
    """Return the environment of each rollout [B]; TRL declares the attribute as None."""
    environments: Any = trainer.environments
    return environments
