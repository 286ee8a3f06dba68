"""TRL's arguments of one run, from the settings and what the machine can hold at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from trl import GRPOConfig

from iapo.config import Config, ConfigError, TrainConfig
from iapo.methods import RewardTerm
from iapo.pretrained import longest_completion
from iapo.types import Example
from iapo.vllm_rollouts import longest_prompt, sampling_arguments


def with_completion_length(settings: TrainConfig, processor: Any, prompts: Sequence[Example]) -> TrainConfig:
    """The settings with a completion length: TRL drops a tool's answer that does not fit, without a word."""
    if settings.max_completion_length is not None:
        return settings
    return replace(settings, max_completion_length=longest_completion(processor, prompts, settings.turn_tokens))


def batch_sizes(config: Config, settings: TrainConfig) -> tuple[int, int]:
    """Rollouts in one forward pass of one process, and how many such passes make an optimizer step.

    Raises:
        ConfigError: where a step's rollouts do not divide so, or a group would be spread over processes, where its
            mean penalty could not be taken.
    """
    processes, rollouts = config.hardware.processes, settings.groups_per_step * settings.group_size
    if settings.groups_per_step % processes:
        raise ConfigError(
            f"hardware.processes: found {processes} for {settings.groups_per_step} groups a step "
            "(groups_per_step); whole groups must fit a process, so use a divisor (config/README.md)"
        )
    share = rollouts // processes
    held = min(config.hardware.rollouts_per_forward or share, share)
    if share % held:
        raise ConfigError(
            f"hardware.rollouts_per_forward: found {held} for {share} rollouts of a process and step; use a divisor "
            "(config/README.md)"
        )
    return held, share // held


def grpo_config(
    config: Config,
    settings: TrainConfig,
    terms: Sequence[RewardTerm],
    processor: Any,
    prompts: Sequence[Example],
    output: Path,
    seed: int,
) -> GRPOConfig:
    """The arguments of TRL's trainer.

    Args:
        config: of the run.
        settings: of this GRPO run, with a completion length.
        terms: of the reward.
        processor: the model's.
        prompts: that are rolled out.
        output: folder of the checkpoints.
        seed: of the rollouts and the order of prompts.
    """
    cpu = config.device == "cpu"
    held, passes = batch_sizes(config, settings)
    context = longest_prompt(processor, prompts) if settings.rollouts == "vllm_colocate" else None
    return GRPOConfig(
        output_dir=str(output),
        seed=seed,
        max_steps=settings.steps,
        per_device_train_batch_size=held,
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
        beta=settings.kl_beta,
        reward_weights=[term.weight for term in terms],
        use_cpu=cpu,
        ddp_backend="gloo" if cpu and config.hardware.processes > 1 else None,
        bf16=not cpu,
        gradient_checkpointing=config.hardware.checkpoint_activations,
        # Attribution asks for gradients inside a forward pass, which reentrant checkpointing refuses.
        gradient_checkpointing_kwargs={"use_reentrant": False},
        max_grad_norm=1.0,
        logging_steps=1,
        save_steps=settings.save_every,
        save_total_limit=2,
        report_to="none",
        disable_tqdm=True,
        **sampling_arguments(config, settings, processor, prompt_tokens=context),
    )
