"""The ``GRPOConfig`` of one run, built from its settings and from what fits into the machine's memory.

How many rollouts share a forward pass depends on the hardware; the number of rollouts per optimizer step does not, so
a run computes the same update on every machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trl import GRPOConfig

from iapo.config.method import RewardForm
from iapo.config.method_registry import RewardTerm
from iapo.config.schema import Config, ConfigError, TrainConfig
from iapo.jobs.tracking import UNTRACKED
from iapo.models.interfaces import Processor
from iapo.rollout.lengths import longest_completion, longest_prompt
from iapo.rollout.vllm import sampling_arguments
from iapo.types import Example


@dataclass
class TermsConfig(GRPOConfig):
    """TRL's arguments, and where each term of the reward enters."""

    reward_forms: list[RewardForm] | None = None
    """One form for each reward function; None puts all of them into the reward, as TRL does."""


def with_completion_length(settings: TrainConfig, processor: Processor, prompts: Sequence[Example]) -> TrainConfig:
    """Return the settings with ``max_completion_length`` set, derived from the prompts where it is null.

    The derived length has room for every tool response, because TRL silently drops one that does not fit.

    Args:
        settings: settings of the GRPO run.
        processor: the policy's processor.
        prompts: the training prompts.
    """
    if settings.max_completion_length is not None:
        return settings
    return replace(settings, max_completion_length=longest_completion(processor, prompts, settings.turn_tokens))


def batch_sizes(config: Config, settings: TrainConfig) -> tuple[int, int]:
    """Return TRL's batch size per device and its number of gradient accumulation steps.

    Args:
        config: configuration of the run; its ``hardware`` section says what fits.
        settings: settings of the GRPO run.

    Returns:
        Rollouts in one forward pass of one process, and the number of such passes per optimizer step.

    Raises:
        ConfigError: if the rollouts of a step do not divide evenly, or if a group would be split over processes: its
            mean penalty is computed within one process.
    """
    processes, rollouts = config.hardware.processes, settings.groups_per_step * settings.group_size
    if settings.groups_per_step % processes:
        raise ConfigError(
            f"hardware.processes: found {processes} for {settings.groups_per_step} groups a step "
            "(groups_per_step); whole groups must fit a process, so use a divisor (config/README.md)"
        )
    share = rollouts // processes
    per_forward = min(config.hardware.rollouts_per_forward or share, share)
    if share % per_forward:
        raise ConfigError(
            f"hardware.rollouts_per_forward: found {per_forward} for {share} rollouts of a process and step; use a "
            "divisor (config/README.md)"
        )
    return per_forward, share // per_forward


def grpo_config(
    config: Config,
    settings: TrainConfig,
    terms: Sequence[RewardTerm],
    processor: Processor,
    prompts: Sequence[Example],
    output: Path,
    seed: int,
    reporting: Mapping[str, Any] = UNTRACKED,
) -> TermsConfig:
    """Return the arguments of TRL's trainer.

    Args:
        config: configuration of the run.
        settings: settings of this GRPO run, with a completion length.
        terms: terms of the reward.
        processor: the policy's processor.
        prompts: the training prompts.
        output: directory of the checkpoints.
        seed: seed of the sampling and of the order of the prompts.
        reporting: arguments from :func:`iapo.jobs.tracking.tracked`.
    """
    cpu = config.device == "cpu"
    per_forward, passes = batch_sizes(config, settings)
    context = longest_prompt(processor, prompts) if settings.rollouts == "vllm_colocate" else None
    return TermsConfig(
        output_dir=str(output),
        seed=seed,
        max_steps=settings.steps,
        per_device_train_batch_size=per_forward,
        gradient_accumulation_steps=passes,
        num_generations=settings.group_size,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=settings.warmup_steps,
        temperature=settings.temperature,
        top_p=settings.top_p,
        max_completion_length=settings.max_completion_length,
        max_tool_calling_iterations=1,
        loss_type=settings.loss_type,
        scale_rewards=settings.scale_rewards,
        multi_objective_aggregation=settings.reward_aggregation,
        beta=settings.kl_beta,
        reward_weights=[term.weight for term in terms],
        reward_forms=[term.form for term in terms],
        use_cpu=cpu,
        ddp_backend="gloo" if cpu and config.hardware.processes > 1 else None,
        bf16=not cpu,
        gradient_checkpointing=config.hardware.checkpoint_activations,
        # Attribution takes gradients inside a forward pass, which reentrant checkpointing does not allow.
        gradient_checkpointing_kwargs={"use_reentrant": False},
        # Else FSDP2 holds every gradient whole, in bfloat16, until the last pass of a step.
        accelerator_config={"gradient_accumulation_kwargs": {"sync_each_batch": config.hardware.strategy == "fsdp2"}},
        max_grad_norm=1.0,
        logging_steps=1,
        save_steps=settings.save_every,
        save_total_limit=2,
        disable_tqdm=True,
        **reporting,
        **sampling_arguments(config, settings, processor, prompt_tokens=context),
    )
