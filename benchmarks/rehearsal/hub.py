"""A local folder that stands in for the hub during the rehearsal.

It has synthetic figures in ReFocus_Data's layout, tiny models in Qwen2.5-VL's layout and a short prompt, under the
repository names that the paper's profile downloads.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.rehearsal.qwen import teach_calls, tiny_qwen, true_processor, write_tiny_qwen
from benchmarks.rehearsal.refocus_fixture import write_fixture
from benchmarks.rehearsal.released import write_released
from iapo.artifacts.files import atomic_directory
from iapo.config.schema import Config
from iapo.data.refocus.reader import read_refocus

_FIGURES, _QUESTIONS = 6, 2
"""Figures per file and questions per figure: enough for three splits, few enough to evaluate quickly."""
_TRAINING_STEPS = {"student": 160, "teacher": 30}
"""Optimiser steps of supervised training; the teacher starts from the student and is trained further."""


def make_hub(folder: Path, config: Config) -> None:
    """Write every repository that the configuration downloads, each atomically.

    Args:
        folder: output directory; ``<owner>/<name>/`` of the data and of each model are replaced.
        config: configuration of the rehearsal.

    Raises:
        ValueError: for a configuration without ReFocus_Data or without pretrained models.
    """
    refocus, student, teacher = config.data.refocus, config.student.model.pretrained, config.teacher.model.pretrained
    if refocus is None or student is None or teacher is None:
        raise ValueError("found a configuration of the mini world; expected config/paper.yaml with an overlay")
    data = folder / refocus.source.repo
    write_fixture(data, figures_per_file=_FIGURES, questions_per_figure=_QUESTIONS)
    shown = [example for examples in read_refocus(data, refocus).examples["train"].values() for example in examples]
    processor = true_processor()
    # Train on images of the size that the run will use.
    bounds = {"shortest_edge": student.min_pixels, "longest_edge": student.max_pixels}
    processor.image_processor.size = bounds
    model = tiny_qwen(processor.tokenizer, seed=0)
    for (name, steps), pretrained in zip(_TRAINING_STEPS.items(), (student, teacher), strict=True):
        teach_calls(model, processor, shown, steps, name=f"tiny Qwen2.5-VL, {name}")
        with atomic_directory(folder / pretrained.source.repo) as tmp:
            write_tiny_qwen(tmp, model, processor)
    if config.released:
        write_released(folder, list(config.released.values()), model, processor, shown)
