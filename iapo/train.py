"""One driver for every method: the same trainer, data, steps and seeds; a method changes the rewards."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from trl import GRPOConfig

from iapo.alignment_trainer import AlignmentTrainer
from iapo.config import Config, TrainConfig
from iapo.data.store import figure_to_json
from iapo.env import ENVIRONMENTS
from iapo.methods import Method, RewardTerm
from iapo.models import load_model, save_model
from iapo.monitors import Monitor
from iapo.processor import UNSAMPLED_TOKENS
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
    """Train one policy, resuming from the last whole checkpoint in ``work``.

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
    model, processor = load_model(start, device=config.device)
    prompts = training_prompts(examples, settings.prompts_per_set)
    metrics = MetricsFile(work / "metrics.jsonl")
    checkpoint = last_checkpoint(work / "checkpoints")
    finished = _step_of(checkpoint)
    metrics.truncate_after(finished)
    terms = method.rewards(config)
    trainer_class, extra = _trainer_class(method, config, cache, teacher, replies)
    trainer = trainer_class(
        model=model,
        processing_class=processor,
        args=_grpo_config(config, settings, terms, processor, work / "checkpoints", seed),
        train_dataset=Dataset.from_list([dataset_row(example) for example in prompts]),
        reward_funcs=[term.function for term in terms],
        environment_factory=ENVIRONMENTS,
        train_turns=settings.train_turns,
        **extra,
    )
    trainer.finished_epochs = finished // max(1, len(prompts) // settings.groups_per_step)
    name = f"train {method.name} seed {seed}"
    monitor = Monitor(config.monitors, name, metrics.rows())
    with Progress(settings.steps, name, start=finished) as progress:

        def write(step: int, figures: dict[str, float]) -> None:
            metrics.append({"step": step, **figures})
            progress.update(1, reward=figures["reward"])
            monitor.update({"step": step, **figures})

        trainer.add_callback(MetricsCallback(write))
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    if isinstance(trainer, AlignmentTrainer):
        _write_misses(work / "misses.jsonl", trainer.misses)
    save_model(trainer.model, processor, output)
    return metrics.rows()


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


def _grpo_config(
    config: Config,
    settings: TrainConfig,
    terms: Sequence[RewardTerm],
    processor: Any,
    output: Path,
    seed: int,
) -> GRPOConfig:
    cpu = config.device == "cpu"
    suppressed = processor.tokenizer.convert_tokens_to_ids(list(UNSAMPLED_TOKENS))
    return GRPOConfig(
        output_dir=str(output),
        seed=seed,
        max_steps=settings.steps,
        per_device_train_batch_size=settings.groups_per_step * settings.group_size,
        num_generations=settings.group_size,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=settings.warmup_steps,
        temperature=settings.temperature,
        max_completion_length=settings.max_completion_length,
        max_tool_calling_iterations=1,
        loss_type=settings.loss_type,
        scale_rewards=settings.scale_rewards,
        beta=settings.kl_beta,
        reward_weights=[term.weight for term in terms],
        generation_kwargs={"suppress_tokens": suppressed},
        use_cpu=cpu,
        bf16=not cpu,
        gradient_checkpointing=not cpu,
        max_grad_norm=1.0,
        logging_steps=1,
        save_steps=settings.save_every,
        save_total_limit=2,
        report_to="none",
        disable_tqdm=True,
    )


def _write_misses(path: Path, misses: Mapping[tuple[str, str], int]) -> None:
    """The queue for rule ``fill_cache``: calls that the cache had no row of its own for, most frequent first."""
    ordered = sorted(misses.items(), key=lambda item: (-item[1], item[0]))
    with atomic_write(path) as partial:
        lines = [json.dumps({"prompt_key": key, "turn": text, "count": count}) for (key, text), count in ordered]
        partial.write_text("".join(f"{line}\n" for line in lines))


class MetricsFile:
    """Figures by step, one JSON object a line; appended while training, cut back when it resumes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def append(self, row: dict[str, float]) -> None:
        """Add one step's figures."""
        with self._path.open("a") as lines:
            lines.write(json.dumps(row) + "\n")

    def rows(self) -> list[dict[str, float]]:
        """Every whole line; a line cut off by a kill is left out."""
        if not self._path.exists():
            return []
        lines = self._path.read_text().splitlines()
        return [json.loads(line) for line in lines if line.endswith("}")]

    def truncate_after(self, step: int) -> None:
        """Drop what a killed run had written past its last checkpoint."""
        kept = [row for row in self.rows() if row["step"] <= step]
        self._path.write_text("".join(json.dumps(row) + "\n" for row in kept))


def last_checkpoint(directory: Path) -> Path | None:
    """The latest whole checkpoint; half-written later ones are removed.

    transformers writes ``trainer_state.json`` last, so a checkpoint with a readable one is whole.
    """
    checkpoints = sorted(directory.glob("checkpoint-*"), key=_step_of, reverse=True)
    for checkpoint in checkpoints:
        try:
            json.loads((checkpoint / "trainer_state.json").read_text())
            return checkpoint
        except (OSError, ValueError):
            shutil.rmtree(checkpoint)
    return None


def _step_of(checkpoint: Path | None) -> int:
    return 0 if checkpoint is None else int(checkpoint.name.rpartition("-")[2])
