"""One driver for every method: the same trainer, data, steps and seeds; a method changes the rewards."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object
from datasets import Dataset
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict

from iapo.alignment_trainer import AlignmentTrainer
from iapo.checkpoints import MISSES, last_checkpoint, metrics_file, step_of
from iapo.config import Config, TrainConfig
from iapo.data.store import figure_to_json
from iapo.env import ENVIRONMENTS
from iapo.grpo_arguments import grpo_config, with_completion_length
from iapo.methods import Method
from iapo.models import load_model, save_model
from iapo.monitors import Monitor
from iapo.progress import Progress
from iapo.prompts import open_image, prompt_messages
from iapo.provenance import atomic_write
from iapo.teacher_cache import TeacherCache
from iapo.trainer import FigureTrainer, MetricsCallback
from iapo.types import Example
from iapo.verifier import ServerVerifier, TeacherVerifier, Verifier
from iapo.verifier_trainer import VerifierTrainer


def training_prompts(examples: Sequence[Example], prompts_per_set: int) -> list[Example]:
    """The questions that reinforcement learning rolls out: the first of each set."""
    by_set: dict[str, list[Example]] = {}
    for example in examples:
        by_set.setdefault(example.test_set, []).append(example)
    return [example for rows in by_set.values() for example in rows[:prompts_per_set]]


def train(
    method: Method,
    config: Config,
    settings: TrainConfig,
    examples: Sequence[Example],
    *,
    start: Path,
    work: Path,
    output: Path,
    seed: int,
    cache: Path | None = None,
    teacher: Path | None = None,
    replies: Path | None = None,
) -> list[dict[str, float]]:
    """Train one policy, resuming from the last checkpoint in ``work``; what each of several processes runs.

    Figures by step go to ``work``; :func:`iapo.checkpoints.clean` it first.

    Args:
        method: the rewards.
        config: of the run; gives the weights and the attribution settings.
        settings: of this GRPO run.
        examples: training questions.
        start: pretrained directory of the policy to improve.
        work: checkpoints and the growing metrics file; survives a killed run.
        output: where the trained policy is saved, whole or not at all.
        seed: of the rollouts and the order of prompts.
        cache: the teacher's cache, for methods that use one.
        teacher: pretrained directory of the teacher, where it is the verifier.
        replies: where a verifier's server's replies are kept.

    Returns:
        One row of figures per step.
    """
    # On the CPU: the trainer moves each process's copy or shard to its own device.
    model, processor = load_model(start)
    prompts = training_prompts(examples, settings.prompts_per_set)
    settings = with_completion_length(settings, processor, prompts)
    checkpoint = last_checkpoint(work)
    finished = step_of(checkpoint)
    terms = method.rewards(config)
    trainer_class, extra = _trainer_class(method, config, cache, teacher, replies)
    adapters = _adapters(config)
    trainer = trainer_class(
        model=model,
        processing_class=processor,
        args=grpo_config(config, settings, terms, processor, prompts, work / "checkpoints", seed),
        train_dataset=Dataset.from_list([dataset_row(example) for example in prompts]),
        reward_funcs=[term.function for term in terms],
        environment_factory=ENVIRONMENTS,
        train_turns=settings.train_turns,
        peft_config=adapters,
        **extra,
    )
    trainer.finished_epochs = finished // max(1, len(prompts) // settings.groups_per_step)
    with _followed(trainer, config, work, finished, f"train {method.name} seed {seed}"):
        if finished < settings.steps or trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        else:
            # All steps are done; transformers would take one more (seen with 5.17).
            trainer._load_from_checkpoint(str(checkpoint))
    if isinstance(trainer, AlignmentTrainer):
        _write_misses(work / MISSES, trainer)
    _save_policy(trainer, processor, start, output, adapters)
    return metrics_file(work).rows()


@contextmanager
def _followed(trainer: FigureTrainer, config: Config, work: Path, finished: int, name: str) -> Iterator[None]:
    """Write each step's figures, show progress and warn of what goes wrong, in the first process."""
    if not trainer.accelerator.is_main_process:
        yield
        return
    metrics = metrics_file(work)
    monitor = Monitor(config.monitors, name, metrics.rows())
    with Progress(trainer.args.max_steps, name, start=finished) as progress:

        def write(step: int, figures: dict[str, float]) -> None:
            metrics.append({"step": step, **figures})
            progress.update(1, reward=figures["reward"])
            monitor.update({"step": step, **figures})

        trainer.add_callback(MetricsCallback(write))
        yield


def _trainer_class(
    method: Method, config: Config, cache: Path | None, teacher: Path | None, replies: Path | None
) -> tuple[type[FigureTrainer], dict[str, Any]]:
    """The trainer that fills the columns which the method's rewards read, and its further arguments."""
    if method.uses_verifier:
        return VerifierTrainer, {
            "verifier": _verifier(config, teacher, replies),
            "most_failures": config.verifier.most_failures,
        }
    if not method.uses_teacher:
        return FigureTrainer, {}
    if cache is None:
        raise ValueError(f"method {method.name} compares with a teacher: pass its cache directory")
    return AlignmentTrainer, {
        "cache": TeacherCache(cache),
        "attribution": config.attribution,
        "alignment": config.alignment,
    }


def _verifier(config: Config, teacher: Path | None, replies: Path | None) -> Verifier:
    if config.verifier.kind == "server":
        if replies is None:
            raise ValueError("the verifier is a server: pass a folder for its replies")
        return ServerVerifier(config.verifier, replies)
    if teacher is None:
        raise ValueError("the verifier is the teacher: pass its pretrained directory")
    model, processor = load_model(teacher, device=config.device)
    return TeacherVerifier(model, processor, config.evaluation.turn_tokens)


def dataset_row(example: Example) -> dict[str, Any]:
    """What TRL renders, what the environment needs, what the rewards read."""
    image = open_image(example)
    (message,) = prompt_messages(example, image)
    # TRL puts the images of the row in place of the parts without one.
    content = [{"type": p["type"], "text": p.get("text")} for p in message["content"]]
    return {
        "prompt": [{"role": "user", "content": content}],
        "images": [image],
        "figure": figure_to_json(example.figure),
        "environment": example.figure.kind,
        "answer": example.answer,
        "metric": example.metric,
        "focus_labels": list(example.focus_labels),
        "example_id": example.example_id,
    }


def _write_misses(path: Path, trainer: AlignmentTrainer) -> None:
    """The queue for rule ``fill_cache``: calls that the cache had no row of its own for, most frequent first."""
    misses: Counter[tuple[str, str]] = Counter()
    for of_process in gather_object([dict(trainer.misses)]):
        misses.update(of_process)
    if not trainer.accelerator.is_main_process:
        return
    ordered = sorted(misses.items(), key=lambda item: (-item[1], item[0]))
    with atomic_write(path) as partial:
        lines = [json.dumps({"prompt_key": key, "turn": text, "count": count}) for (key, text), count in ordered]
        partial.write_text("".join(f"{line}\n" for line in lines))


def _adapters(config: Config) -> LoraConfig | None:
    rank = config.hardware.lora_rank
    if rank == 0:
        return None
    # The vision tower is left as it is: rewards come from what is said about an image.
    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=r".*language_model.*_proj", task_type="CAUSAL_LM")


def _save_policy(trainer: Any, processor: Any, start: Path, output: Path, adapters: LoraConfig | None) -> None:
    """Write the trained policy as one pretrained directory, adapters merged. Every process calls it, the first writes.

    Args:
        trainer: after training, its model sharded or not.
        processor: the model's.
        start: pretrained directory that training began from; adapters are merged into its weights.
        output: gets the directory, whole or not at all.
        adapters: what was trained in place of the weights.
    """
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if not trainer.accelerator.is_main_process:
        return
    if adapters is None:
        save_model(trainer.accelerator.unwrap_model(trainer.model), processor, output, weights=weights)
        return
    trained = get_peft_model(load_model(start)[0], adapters)
    set_peft_model_state_dict(trained, {name: value for name, value in weights.items() if "lora_" in name})
    save_model(trained.merge_and_unload(), processor, output)
