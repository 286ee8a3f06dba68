"""The cold start: three supervised stages that give reinforcement learning a policy to improve.

Glyphs align the vision tower with printed cells, reading exercises teach to read the one number left in
a figure (without them reading stays near chance), demonstrations teach the format and imperfect tool use.
Each stage is a ``transformers.Trainer`` run over examples drawn by index.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import (
    Qwen2_5_VLForConditionalGeneration,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_callback import PrinterCallback

from iapo.config import ColdStartConfig
from iapo.data.figures import cell
from iapo.data.vocabulary import words
from iapo.demonstrations import Demonstration, Demonstrator, reading_exercise
from iapo.env import tool_schemas
from iapo.progress import Progress
from iapo.tools import apply
from iapo.types import TEST_SETS, Example, Figure, ToolCall

_IGNORED = -100
_GLYPH_BATCH = 256


class _Drawn(Dataset[Any]):
    """A dataset whose item ``i`` is ``draw(i)``: nothing stored, the same on every run."""

    def __init__(self, draw: Callable[[int], Any], length: int) -> None:
        self._draw, self._length = draw, length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Any:
        return self._draw(index)


def cold_start(
    model: Qwen2_5_VLForConditionalGeneration,
    processor: Any,
    examples: Sequence[Example],
    config: ColdStartConfig,
    *,
    name: str,
) -> None:
    """Train a fresh model in place through the three stages.

    Args:
        model: random weights.
        processor: the model's.
        examples: training questions.
        config: steps, batch sizes and the quality of the demonstrations.
        name: what the progress lines call the model.
    """
    glyphs = GlyphReader(model)
    run_stage(
        glyphs,
        lambda i: _draw_glyph(i, config.seed),
        lambda items: _collate_glyphs(items, processor),
        config.glyph_steps,
        _GLYPH_BATCH,
        config,
        f"{name}: glyphs",
    )
    run_stage(
        model,
        lambda i: _draw_exercise(i, examples, config.seed),
        lambda items: collate(items, processor),
        config.reading_steps,
        config.reading_batch_size,
        config,
        f"{name}: reading",
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


def run_stage(
    model: nn.Module,
    draw: Callable[[int], Any],
    collator: Callable[[list[Any]], dict[str, Tensor]],
    steps: int,
    batch_size: int,
    config: ColdStartConfig,
    name: str,
) -> None:
    """Train in place on examples that are drawn by index.

    Args:
        model: returns its loss.
        draw: index → example, the same on every run.
        collator: some examples → the model's inputs.
        steps: optimiser steps.
        batch_size: examples a step.
        config: learning rate and seed.
        name: what the progress lines call the stage.
    """
    warmup = min(30, steps // 4)
    with tempfile.TemporaryDirectory() as scratch, Progress(steps, name) as progress:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=scratch,
                max_steps=steps,
                per_device_train_batch_size=batch_size,
                learning_rate=config.learning_rate,
                lr_scheduler_type="warmup_stable_decay",
                lr_scheduler_kwargs={"num_decay_steps": steps // 2, "min_lr_ratio": 0.05},
                warmup_steps=warmup,
                weight_decay=0.01,
                adam_beta2=0.98,
                max_grad_norm=1.0,
                seed=config.seed,
                use_cpu=not torch.cuda.is_available(),
                bf16=False,
                gradient_checkpointing=False,
                save_strategy="no",
                report_to="none",
                logging_steps=max(1, steps // 10),
                disable_tqdm=True,
                remove_unused_columns=False,
                dataloader_pin_memory=False,
            ),
            train_dataset=_Drawn(draw, steps * batch_size),
            data_collator=collator,
        )
        trainer.pop_callback(PrinterCallback)
        trainer.add_callback(_ProgressCallback(progress))
        trainer.train()


class _ProgressCallback(TrainerCallback):
    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._figures: dict[str, float] = {}

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if logs and "loss" in logs:
            self._figures = {"loss": float(logs["loss"])}

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._progress.update(1, **self._figures)


class GlyphReader(nn.Module):
    """The vision tower and the (tied) output layer alone: one cell in, one word out."""

    def __init__(self, model: Qwen2_5_VLForConditionalGeneration) -> None:
        super().__init__()
        self.visual = model.model.visual
        self.lm_head = model.lm_head

    def forward(self, pixel_values: Tensor, image_grid_thw: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Cross-entropy of the words. ``pixel_values`` [4·B, patch], ``image_grid_thw`` [B, 3], ``labels`` [B]."""
        tokens = self.visual(pixel_values, grid_thw=image_grid_thw).pooler_output
        return {"loss": nn.functional.cross_entropy(self.lm_head(tokens), labels)}


def _draw_glyph(index: int, seed: int) -> tuple[Any, str]:
    """A single cell, plain or as a tool leaves it, and the word printed on it."""
    rng = random.Random(f"glyph/{seed}/{index}")
    vocabulary = words()
    numbers = [word for word in vocabulary if word.isdigit() and len(word) == 2]
    names = [word for word in vocabulary if word.istitle() or (len(word) == 4 and word.isdigit())]
    word = rng.choice(numbers) if rng.random() < 0.65 else rng.choice(names)
    image = cell(word, None, rng.choice(TEST_SETS))
    mode = rng.choice(["mask", "draw", "highlight"])
    figure = Figure("glyph", "table", {"rows": {word: (0, 0, *image.size)}})
    return apply(image, figure, [ToolCall(f"focus_on_rows_with_{mode}", (word,))]).image, word


def _collate_glyphs(items: list[tuple[Any, str]], processor: Any) -> dict[str, Tensor]:
    pixels = processor.image_processor(images=[image for image, _ in items], return_tensors="pt")
    ids = processor.tokenizer.convert_tokens_to_ids([word for _, word in items])
    return {
        "pixel_values": pixels["pixel_values"],
        "image_grid_thw": pixels["image_grid_thw"],
        "labels": torch.tensor(ids),
    }


def _draw_exercise(index: int, examples: Sequence[Example], seed: int) -> Demonstration:
    rng = random.Random(f"reading/{seed}/{index}")
    return reading_exercise(rng.choice(examples))


def collate(items: list[Demonstration], processor: Any) -> dict[str, Tensor]:
    """Tokenize conversations and mark the assistant's own tokens for the loss.

    Returns:
        The model's inputs, [B, L] each (right-padded by the tokenizer's side), with ``labels`` -100
        everywhere but on assistant turns and their end tokens.
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
    batch = dict(processor(text=texts, images=images, padding=True, return_tensors="pt"))
    batch["labels"] = assistant_labels(batch["input_ids"], processor.tokenizer)
    return batch


def assistant_labels(input_ids: Tensor, tokenizer: Any) -> Tensor:
    """``input_ids`` [B, L] where the assistant speaks (end of turn included), -100 elsewhere."""
    start, end, assistant = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>", "assistant"])
    labels = torch.full_like(input_ids, _IGNORED)
    for row, ids in enumerate(input_ids.tolist()):
        speaking = False
        for i, token in enumerate(ids):
            if speaking:
                labels[row, i] = token
                speaking = token != end
            elif token == assistant and i > 0 and ids[i - 1] == start:
                speaking = True
    return labels
