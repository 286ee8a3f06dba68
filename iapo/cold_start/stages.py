"""The supervised stages of the cold start, which give reinforcement learning a policy to improve.

The glyph stage aligns the vision tower with printed words. Reading exercises teach the model to read the one number
that a mask leaves in a figure; without them reading stays near chance. Calling exercises teach it, in short sequences,
to call the label that is asked for; without them some seeds have not learned so after 500 steps of demonstrations.
Demonstrations teach the format and imperfect tool use. Each stage is one ``transformers.Trainer`` run over examples
drawn by index.

Shape legend: B examples, L tokens.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar, cast

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import (
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_callback import PrinterCallback

from iapo.artifacts.progress import Progress
from iapo.cold_start.demonstrations import (
    MODES,
    Demonstration,
    Demonstrator,
    ReadingExercises,
    calling_exercise,
)
from iapo.config.mini_world import ColdStartConfig, HabitConfig
from iapo.data.mini_world.figures import cell
from iapo.data.mini_world.gapminder import countries, years
from iapo.models.interfaces import Processor, QwenVL
from iapo.rollout.environment import tool_schemas
from iapo.tools.drawing import apply
from iapo.types import TEST_SETS, Example, Figure, ToolCall

_IGNORE_INDEX = -100
"""Label of tokens outside the loss."""

_GLYPH_BATCH_SIZE = 256

_NUMBERS_SHARE = 0.5
"""Of the glyphs: share of numbers, of which there are few; the others are names and years."""

_LEARNED = 0.05
"""Loss of exercises that are learned. Some seeds learn to read in 150 steps, some in 500: what is learned is left."""

Item = TypeVar("Item")


class _IndexedDraws(Dataset[Item]):
    """A dataset whose item ``i`` is ``draw(i)``, so nothing is stored and every run sees the same items."""

    def __init__(self, draw: Callable[[int], Item], length: int) -> None:
        self._draw, self._length = draw, length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Item:
        return self._draw(index)


def cold_start(
    model: QwenVL,
    processor: Processor,
    examples: Sequence[Example],
    config: ColdStartConfig,
    *,
    name: str,
) -> None:
    """Train a model in place through its stages.

    Args:
        model: the model, with random weights.
        processor: the model's processor.
        examples: training questions, each with its annotated label.
        config: steps, batch sizes and the error rates of the demonstrations.
        name: name of the model in the progress output.
    """
    glyphs = GlyphReader(model)
    run_stage(
        glyphs,
        _Glyphs(examples, config.seed),
        _GlyphCollator(processor),
        config.glyph_steps,
        _GLYPH_BATCH_SIZE,
        config,
        f"{name}: glyphs",
    )
    run_stage(
        model,
        ReadingExercises(examples, config.seed),
        lambda items: collate(items, processor),
        config.reading_steps,
        config.reading_batch_size,
        config,
        f"{name}: reading",
        until_loss=_LEARNED,
    )
    if config.calling_steps:
        run_stage(
            model,
            lambda i: _draw_calling(i, examples, config.seed),
            lambda items: collate(items, processor),
            config.calling_steps,
            config.reading_batch_size,
            config,
            f"{name}: calling",
            until_loss=_LEARNED,
        )
    run_stage(
        model,
        Demonstrator(examples, config.demonstrations, config.seed),
        lambda items: collate(items, processor),
        config.demonstration_steps,
        config.batch_size,
        config,
        f"{name}: demonstrations",
    )
    if config.habit is not None:
        habit = replace(config.habit, seed=config.habit.seed + config.seed)
        teach_habit(model, processor, examples, habit, batch_size=config.batch_size, name=name)


def teach_habit(
    model: QwenVL,
    processor: Processor,
    examples: Sequence[Example],
    config: HabitConfig,
    *,
    batch_size: int,
    name: str,
) -> None:
    """Train a cold-started model in place on demonstrations of a habit.

    Args:
        model: the model behind its cold start.
        processor: the model's processor.
        examples: training questions, each with its annotated label.
        config: steps and demonstrations.
        batch_size: demonstrations per step.
        name: name of the habit in the progress output.
    """
    run_stage(
        model,
        Demonstrator(examples, config.demonstrations, config.seed),
        lambda items: collate(items, processor),
        config.steps,
        batch_size,
        config,
        f"{name}: habit",
    )


def run_stage(
    model: nn.Module,
    draw: Callable[[int], Item],
    collator: Callable[[list[Item]], dict[str, Tensor]],
    steps: int,
    batch_size: int,
    config: ColdStartConfig | HabitConfig,
    name: str,
    *,
    until_loss: float | None = None,
) -> None:
    """Train a model in place on examples drawn by index.

    Args:
        model: a module whose output holds ``loss``.
        draw: index → example, deterministic.
        collator: examples of one batch → the model's inputs.
        steps: optimizer steps.
        batch_size: examples per step.
        config: learning rate and seed.
        name: name of the stage in the progress output.
        until_loss: training ends early once the mean loss since the last log, a twentieth of the steps ago, is below
            this; the learning rate then stays at its peak, since nobody knows when that is. None trains all steps.
    """
    schedule: dict[str, Any] = {
        "lr_scheduler_type": "warmup_stable_decay",
        "lr_scheduler_kwargs": {"num_decay_steps": steps // 2, "min_lr_ratio": 0.05},
    }
    if until_loss is not None:
        schedule = {"lr_scheduler_type": "constant_with_warmup"}
    progress = Progress(steps, name, may_end_early=until_loss is not None)
    with tempfile.TemporaryDirectory() as scratch, progress:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=scratch,
                max_steps=steps,
                per_device_train_batch_size=batch_size,
                learning_rate=config.learning_rate,
                warmup_steps=min(30, steps // 4),
                **schedule,
                weight_decay=0.01,
                adam_beta2=0.98,
                max_grad_norm=1.0,
                seed=config.seed,
                use_cpu=not torch.cuda.is_available(),
                bf16=False,
                gradient_checkpointing=False,
                save_strategy="no",
                report_to="none",
                logging_steps=max(1, steps // 20),
                disable_tqdm=True,
                remove_unused_columns=False,
                dataloader_pin_memory=False,
            ),
            train_dataset=_IndexedDraws(draw, steps * batch_size),
            data_collator=collator,
        )
        trainer.pop_callback(PrinterCallback)
        trainer.add_callback(_StageCallback(progress, until_loss))
        trainer.train()


class _StageCallback(TrainerCallback):
    """Advances the progress line at every step with the last logged loss, and ends training once that is low enough."""

    def __init__(self, progress: Progress, until_loss: float | None) -> None:
        self._progress = progress
        self._until_loss = until_loss
        self._metrics: dict[str, float] = {}

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: object,
    ) -> None:
        if logs and "loss" in logs:
            self._metrics = {"loss": float(logs["loss"])}
            if self._until_loss is not None and logs["loss"] < self._until_loss:
                control.should_training_stop = True

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        self._progress.update(1, **self._metrics)


class GlyphReader(nn.Module):
    """A classifier of printed words: the vision tower and the (tied) output layer of a model, without its decoder."""

    def __init__(self, model: QwenVL) -> None:
        super().__init__()
        self.visual = model.model.visual
        self.lm_head = model.lm_head

    def forward(self, pixel_values: Tensor, image_grid_thw: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return the mean cross-entropy of the words.

        Args:
            pixel_values: [4·B, channels] patches; an image of one word has four, merged into one token.
            image_grid_thw: [B, 3] patches in time, height and width.
            labels: [B] token ids of the words.
        """
        tokens = self.visual(pixel_values, grid_thw=image_grid_thw).pooler_output
        return {"loss": nn.functional.cross_entropy(self.lm_head(tokens), labels)}


class _Glyphs:
    """A source of printed words by index, each with the test set whose style it has and a tool's mode."""

    def __init__(self, examples: Sequence[Example], seed: int) -> None:
        self._numbers = sorted({example.answer for example in examples if example.metric != "fact"})
        self._names = [*countries(), *years()]
        self._seed = seed

    def __call__(self, index: int) -> tuple[str, str, str]:
        rng = random.Random(f"glyph/{self._seed}/{index}")
        word = rng.choice(self._numbers if rng.random() < _NUMBERS_SHARE else self._names)
        return word, rng.choice(TEST_SETS), rng.choice(MODES)


def _glyph(word: str, test_set: str, mode: str) -> Image.Image:
    """Draw a cell of a figure, plain (as a mask keeps it), framed or highlighted."""
    image = cell(word, "text", test_set)
    figure = Figure("glyph", "table", {"rows": {word: (0, 0, *image.size)}})
    return apply(image, figure, [ToolCall(f"focus_on_rows_with_{mode}", (word,))]).image


class _GlyphCollator:
    """A collator of glyphs into the reader's inputs, which processes every picture once."""

    def __init__(self, processor: Processor) -> None:
        self._processor = processor
        self._pixels: dict[tuple[str, str, str], Tensor] = {}

    def __call__(self, glyphs: list[tuple[str, str, str]]) -> dict[str, Tensor]:
        for glyph in dict.fromkeys(glyphs):
            if glyph in self._pixels:
                continue
            pixels = self._processor.image_processor(images=[_glyph(*glyph)], return_tensors="pt")
            self._pixels[glyph] = pixels["pixel_values"]
        ids = self._processor.tokenizer.convert_tokens_to_ids([word for word, _, _ in glyphs])
        return {
            "pixel_values": torch.cat([self._pixels[glyph] for glyph in glyphs]),
            "image_grid_thw": torch.tensor([[1, 2, 2]] * len(glyphs)),
            "labels": torch.tensor(ids),
        }


def _draw_calling(index: int, examples: Sequence[Example], seed: int) -> Demonstration:
    rng = random.Random(f"calling/{seed}/{index}")
    return calling_exercise(rng.choice(examples))


def collate(items: list[Demonstration], processor: Processor) -> dict[str, Tensor]:
    """Tokenize conversations and label the assistant's own tokens for the loss.

    Args:
        items: [B] conversations.
        processor: the model's processor, which decides the padding side.

    Returns:
        The model's inputs: ids, mask and ``labels`` [B, L] and the images of all conversations. Labels are -100
        everywhere except on assistant turns and their end tokens.
    """
    texts = [
        processor.apply_chat_template(
            item.messages,
            tools=list(tool_schemas(item.kind)) if item.kind else None,
            tokenize=False,
        )
        for item in items
    ]
    images = [
        part["image"]
        for item in items
        for message in item.messages
        if isinstance(message["content"], list)
        for part in message["content"]
        if part["type"] == "image"
    ]
    batch = dict(processor(text=texts, images=images or None, padding=True, return_tensors="pt"))
    batch["labels"] = assistant_labels(batch["input_ids"], processor.tokenizer)
    return batch


def assistant_labels(input_ids: Tensor, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """Return labels that keep the assistant's tokens and ignore all others.

    Args:
        input_ids: [B, L] token ids of whole conversations.
        tokenizer: the tokenizer, in whose chat template a turn opens with ``<|im_start|>assistant``.

    Returns:
        [B, L] ``input_ids`` inside assistant turns, end token included; -100 elsewhere.
    """
    markers = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>", "assistant"])
    start, end, assistant = cast(list[int], markers)
    labels = torch.full_like(input_ids, _IGNORE_INDEX)
    for row, ids in enumerate(input_ids.tolist()):
        in_assistant_turn = False
        for i, token in enumerate(ids):
            if in_assistant_turn:
                labels[row, i] = token
                in_assistant_turn = token != end
            elif token == assistant and i > 0 and ids[i - 1] == start:
                in_assistant_turn = True
    return labels
