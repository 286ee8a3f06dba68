"""The training driver that all methods share.

Trainer, data, number of steps and seeds are the same for every method. A method contributes its rewards and, where
these need extra columns, a trainer class that fills them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from pkgutil import resolve_name

from datasets import Dataset
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict

from iapo.artifacts.progress import Progress
from iapo.config.method_registry import Method
from iapo.config.schema import Config
from iapo.data.selection import dataset_row, training_prompts
from iapo.models.interfaces import Processor
from iapo.models.loading import load_model, save_model
from iapo.rollout.environment import ENVIRONMENTS
from iapo.training.checkpoints import last_checkpoint, metrics_file, step_of
from iapo.training.grpo_config import grpo_config, with_completion_length
from iapo.training.monitors import Monitor
from iapo.training.trainer import FigureTrainer, MetricsCallback, Sources
from iapo.types import Example

NO_SOURCES = Sources()
"""Sources of a method that reads neither a teacher nor a verifier."""


def train(
    method: Method,
    config: Config,
    examples: Sequence[Example],
    *,
    start: Path,
    run_dir: Path,
    output: Path,
    seed: int,
    sources: Sources = NO_SOURCES,
) -> list[dict[str, float]]:
    """Train one policy with GRPO, resuming from the last checkpoint in ``run_dir``.

    In distributed training every process calls this function. Call :func:`iapo.training.checkpoints.clean` on
    ``run_dir`` first.

    Args:
        method: the method: its reward terms, and the trainer class that fills the columns they read.
        config: configuration of the run.
        examples: training questions.
        start: pretrained directory of the policy to start from.
        run_dir: run directory with the checkpoints and the metrics file; it survives a killed run.
        output: pretrained directory to write the trained policy to, atomically.
        seed: seed of the sampling and of the order of the prompts.
        sources: directories that the method reads besides the data.

    Returns:
        Metrics of each step.
    """
    # Loaded on the CPU: the trainer moves each process's copy or shard to its own device.
    model, processor = load_model(start)
    prompts = training_prompts(examples, config.train.prompts_per_set)
    settings = with_completion_length(config.train, processor, prompts)
    checkpoint = last_checkpoint(run_dir)
    finished = step_of(checkpoint)
    terms = method.rewards(config)
    trainer_class = FigureTrainer if method.trainer is None else resolve_name(method.trainer)
    adapters = _adapters(config)
    trainer = trainer_class(
        model=model,
        processing_class=processor,
        args=grpo_config(config, settings, terms, processor, prompts, run_dir / "checkpoints", seed),
        train_dataset=Dataset.from_list([dataset_row(example) for example in prompts]),
        reward_funcs=[term.function for term in terms],
        environment_factory=ENVIRONMENTS,
        train_turns=settings.train_turns,
        peft_config=adapters,
        **trainer_class.arguments(config, sources),
    )
    trainer.finished_epochs = finished // max(1, len(prompts) // settings.groups_per_step)
    with _followed(trainer, config, run_dir, finished, f"train {method.name} seed {seed}"):
        if finished < settings.steps or trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        else:
            # All steps are done, and transformers 5.17 would take one more.
            trainer._load_from_checkpoint(str(checkpoint))
    trainer.write_extras(run_dir)
    _save_policy(trainer, processor, start, output, adapters)
    return metrics_file(run_dir).rows()


@contextmanager
def _followed(trainer: FigureTrainer, config: Config, run_dir: Path, finished: int, name: str) -> Iterator[None]:
    """Write each step's metrics, show progress and print warnings while training runs, in the main process only."""
    if not trainer.accelerator.is_main_process:
        yield
        return
    metrics = metrics_file(run_dir)
    monitor = Monitor(config.monitors, name, metrics.rows())
    with Progress(trainer.args.max_steps, name, start=finished) as progress:

        def write(step: int, logs: dict[str, float]) -> None:
            metrics.append({"step": step, **logs})
            progress.update(1, reward=logs["reward"])
            monitor.update({"step": step, **logs})

        trainer.add_callback(MetricsCallback(write))
        yield


def _adapters(config: Config) -> LoraConfig | None:
    rank = config.hardware.lora_rank
    if rank == 0:
        return None
    # The vision tower stays frozen: rewards depend on what the policy says about an image.
    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=r".*language_model.*_proj", task_type="CAUSAL_LM")


def _save_policy(
    trainer: FigureTrainer, processor: Processor, start: Path, output: Path, adapters: LoraConfig | None
) -> None:
    """Write the trained policy as one pretrained directory, with adapters merged into the weights.

    Every process calls it, because gathering a sharded model is collective; only the main process writes.

    Args:
        trainer: the trainer after training, its model sharded or not.
        processor: the policy's processor.
        start: pretrained directory that training started from; adapters are merged into its weights.
        output: pretrained directory to write, atomically.
        adapters: configuration of the trained adapters; None if the weights themselves were trained.
    """
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if not trainer.accelerator.is_main_process:
        return
    if adapters is None:
        save_model(trainer.policy, processor, output, weights=weights)
        return
    trained = get_peft_model(load_model(start)[0], adapters)
    set_peft_model_state_dict(trained, {name: value for name, value in weights.items() if "lora_" in name})
    save_model(trained.merge_and_unload(), processor, output)
