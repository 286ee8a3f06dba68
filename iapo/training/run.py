"""The training driver that all methods share.

Trainer, data, number of steps and seeds are the same for every method. A method contributes its rewards and, where
these need extra columns, a trainer class that fills them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from iapo.artifacts.progress import Progress
from iapo.config.method_registry import Method
from iapo.config.schema import Config, TrainConfig
from iapo.data.selection import dataset_row, training_prompts
from iapo.jobs.ending import Steps, steps
from iapo.jobs.tracking import UNTRACKED
from iapo.models.interfaces import Processor
from iapo.models.loading import load_model, save_model
from iapo.models.weight_average import WeightAverage
from iapo.rewards.dev_accuracy import dev_accuracy
from iapo.rollout.environment import ENVIRONMENTS
from iapo.training.checkpoints import checkpoint_of, last_checkpoint, metrics_file, seal, step_of
from iapo.training.grpo_config import grpo_config, with_completion_length
from iapo.training.monitors import Monitor
from iapo.training.trainer import FigureTrainer, MetricsCallback, Sources
from iapo.types import Example

NO_SOURCES = Sources()
"""Sources of a method that reads neither a teacher nor a verifier."""

_log = logging.getLogger(__name__)


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
    dev: Sequence[Example] = (),
    reporting: Mapping[str, Any] = UNTRACKED,
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
        dev: questions of the dev split, which ``train.dev_every`` needs.
        reporting: arguments from :func:`iapo.jobs.tracking.tracked`; by default no tracker is told of the run.

    Returns:
        Metrics of each step, and of step 0 where dev accuracy is measured.
    """
    # Loaded on the CPU: the trainer moves each process's copy or shard to its own device.
    adapters = _adapters(config)
    # Beneath adapters the weights only run; those that are trained would lose small updates in bfloat16.
    model, processor = load_model(start, precision=config.hardware.precision if adapters else "float32")
    prompts = training_prompts(examples, config.train.prompts_per_set)
    settings = with_completion_length(config.train, processor, prompts)
    checkpoint = last_checkpoint(run_dir)
    finished = step_of(checkpoint)
    terms = method.rewards(config)
    trainer_class = FigureTrainer if method.trainer is None else resolve_name(method.trainer)
    # Before torch.distributed starts, which accelerate takes as leave to load zeros on all processes but the first.
    sources_read = trainer_class.arguments(config, sources)
    trainer = trainer_class(
        model=model,
        processing_class=processor,
        args=grpo_config(config, settings, terms, processor, prompts, run_dir / "checkpoints", seed, reporting),
        train_dataset=Dataset.from_list([dataset_row(example) for example in prompts]),
        reward_funcs=[term.function for term in terms],
        environment_factory=ENVIRONMENTS,
        train_turns=settings.train_turns,
        turn_tokens=settings.turn_tokens,
        peft_config=adapters,
        **sources_read,
    )
    trainer.finished_epochs = finished // max(1, len(prompts) // settings.groups_per_step)
    name = f"train {method.name} seed {seed}"
    # Before what looks at whether a step is saved.
    ending = _EndAtStep(trainer)
    trainer.add_callback(ending)
    average = _averaged(trainer, run_dir, finished, settings.average_last)
    trainer.add_callback(_SealCallback(trainer, run_dir))
    if checkpoint is not None:
        trainer.read_extras(checkpoint)
    dev_questions = _DevQuestions(trainer, processor, settings, dev, name)
    with steps() as ending.steps, _followed(trainer, config, run_dir, finished, name, dev_questions):
        _take_steps(trainer, checkpoint, settings.steps - finished)
    trainer.write_extras(run_dir)
    _save_policy(trainer, processor, start, output, adapters, average)
    return metrics_file(run_dir).rows()


class _NothingLeftError(Exception):
    """All steps are done: what they came to is loaded, and no other one is to be taken."""


def _take_steps(trainer: FigureTrainer, checkpoint: Path | None, left: int) -> None:
    """Take the steps that are left; where there are none, only bring the model to where the checkpoint is.

    Args:
        trainer: the trainer, before its training.
        checkpoint: what it goes on from; None for the start.
        left: number of steps.
    """
    if left:
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        return

    def leave() -> None:
        raise _NothingLeftError

    # transformers 5.17 asks whether all steps are done after one more. A sharded model is loaded within `train` alone,
    # and just before its callbacks; this one comes before those of trackers, which have nothing to hear.
    trainer.callback_handler.callbacks.insert(0, _AtBegin(leave))
    with suppress(_NothingLeftError):
        trainer.train(resume_from_checkpoint=str(checkpoint))


@contextmanager
def _followed(
    trainer: FigureTrainer, config: Config, run_dir: Path, finished: int, name: str, dev: _DevQuestions
) -> Iterator[None]:
    """Write each step's metrics, show progress and print warnings while training runs, in the main process only."""
    if not trainer.accelerator.is_main_process:
        yield
        return
    metrics = metrics_file(run_dir)
    monitor = Monitor(config.monitors, name, [row for row in metrics.rows() if row["step"]])
    with Progress(trainer.args.max_steps, name, start=finished) as progress:

        def told(found: dict[str, float]) -> dict[str, float]:
            # The step's own metrics are with the tracker already, whose callback comes before ours.
            if found:
                trainer.callback_handler.on_log(trainer.args, trainer.state, trainer.control, dict(found))
            return found

        def write(step: int, logs: dict[str, float]) -> None:
            # Before the step's checkpoint, so that a resumed run neither repeats a row nor lacks one.
            metrics.append({"step": step, **logs, **told(dev.after(step))})
            progress.update(1, reward=logs["reward"])
            monitor.update({"step": step, **logs})

        def begin() -> None:
            if not metrics.rows() and (found := told(dev.after(0))):
                metrics.append({"step": 0, **found})

        trainer.add_callback(MetricsCallback(write))
        trainer.add_callback(_AtBegin(begin))
        yield


class _EndAtStep(TrainerCallback):
    """Trainer callback that saves a step and ends with it, in every process, once one of them was asked to end."""

    def __init__(self, trainer: FigureTrainer) -> None:
        self._trainer = trainer
        self.steps = Steps()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        if self._any_asked():
            control.should_save = control.should_training_stop = True
            self.steps.saved = state.global_step

    def _any_asked(self) -> bool:
        accelerator = self._trainer.accelerator
        if accelerator.num_processes == 1:
            return self.steps.are_to_end
        # Signals come between different steps of different processes, which must all take the same ones.
        asked = torch.tensor(float(self.steps.are_to_end), device=accelerator.device)
        return bool(accelerator.reduce(asked).item())


class _AtBegin(TrainerCallback):
    """Trainer callback that calls ``begin()`` once model and optimizer are where they train, before the first step."""

    def __init__(self, begin: Callable[[], None]) -> None:
        self._begin = begin

    def on_train_begin(self, *_: object, **__: object) -> None:
        self._begin()


class _DevQuestions:
    """The dev questions of a run, asked every few steps, before the first and after the last."""

    def __init__(
        self, trainer: FigureTrainer, processor: Processor, settings: TrainConfig, dev: Sequence[Example], name: str
    ) -> None:
        self._trainer, self._processor, self._settings = trainer, processor, settings
        self._examples = training_prompts(dev, settings.dev_per_set) if settings.dev_every else []
        if settings.dev_every and not dev:
            raise ValueError("found no dev questions, expected some for train.dev_every; pass `dev`, or set it to 0")
        if self._examples and trainer.is_fsdp_enabled:
            self._examples = []
            _log.warning("%s: dev accuracy is not measured: a sharded model (FSDP) cannot answer in one process", name)

    def after(self, step: int) -> dict[str, float]:
        """Return the metrics of a step at which the questions are due; none at any other."""
        last = step == self._settings.steps
        if not self._examples or (step % self._settings.dev_every and not last):
            return {}
        started = time.perf_counter()
        arguments = self._trainer.args
        found = dev_accuracy(
            self._trainer.policy,
            self._processor,
            self._examples,
            # As many as the rollouts of a step, which fit.
            batch_size=arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps,
            turn_tokens=self._settings.turn_tokens,
        )
        return {
            "dev/accuracy": found.accuracy,
            "dev/right_calls": found.right_calls,
            "seconds/dev": time.perf_counter() - started,
        }


def _averaged(trainer: FigureTrainer, run_dir: Path, finished: int, last: int) -> WeightAverage | None:
    """Return the mean of the weights after each of the last steps, which the trainer fills; None without such steps."""
    if last == 0 or not trainer.accelerator.is_main_process:
        return None
    folder = run_dir / "average"
    first = trainer.args.max_steps - last + 1
    average = WeightAverage.load(folder, finished) if finished >= first else WeightAverage()
    trainer.add_callback(_AverageCallback(trainer, average, folder, first))
    return average


class _AverageCallback(TrainerCallback):
    """Trainer callback that takes the weights after each step from ``first`` on into a mean."""

    def __init__(self, trainer: FigureTrainer, average: WeightAverage, folder: Path, first: int) -> None:
        self._trainer, self._average, self._folder, self._first = trainer, average, folder, first

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        if state.global_step < self._first:
            return
        self._average.add(_weights(self._trainer))
        # Before the checkpoint of the same step, which resuming needs it beside.
        if control.should_save:
            self._average.save(self._folder, state.global_step)


class _SealCallback(TrainerCallback):
    """Trainer callback that adds the method's outputs so far to a checkpoint and lists its files once all are there."""

    def __init__(self, trainer: FigureTrainer, run_dir: Path) -> None:
        self._trainer, self._run_dir = trainer, run_dir

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        self._trainer.write_extras(checkpoint_of(self._run_dir, state.global_step))
        accelerator = self._trainer.accelerator
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            seal(self._run_dir, state.global_step)


def _weights(trainer: FigureTrainer) -> Mapping[str, Tensor]:
    """Return the whole state dict; every process of a sharded run must call it."""
    weights: Mapping[str, Tensor] = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    return weights


def _adapters(config: Config) -> LoraConfig | None:
    rank = config.hardware.lora_rank
    if rank == 0:
        return None
    # The vision tower stays frozen: rewards depend on what the policy says about an image.
    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=r".*language_model.*_proj", task_type="CAUSAL_LM")


def _save_policy(
    trainer: FigureTrainer,
    processor: Processor,
    start: Path,
    output: Path,
    adapters: LoraConfig | None,
    average: WeightAverage | None,
) -> None:
    """Write the trained policy as one pretrained directory, with adapters merged into the weights.

    Every process calls it, because gathering a sharded model is collective; only the main process writes.

    Args:
        trainer: the trainer after training, its model sharded or not.
        processor: the policy's processor.
        start: pretrained directory that training started from; adapters are merged into its weights.
        output: pretrained directory to write, atomically.
        adapters: configuration of the trained adapters; None if the weights themselves were trained.
        average: mean of the last steps' weights, saved in place of the last ones; None saves these.
    """
    weights = _weights(trainer)
    if not trainer.accelerator.is_main_process:
        return
    if average is not None:
        weights = average.weights(weights)
    if adapters is None:
        save_model(trainer.policy, processor, output, weights=weights)
        return
    trained = get_peft_model(load_model(start)[0], adapters)
    set_peft_model_state_dict(trained, {name: value for name, value in weights.items() if "lora_" in name})
    save_model(trained.merge_and_unload(), processor, output)
