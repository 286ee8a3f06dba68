"""A folder that stands for the hub: made-up figures in ReFocus_Data's layout, and two tiny models in Qwen2.5-VL's,
under the names that the paper's profile downloads."""

from __future__ import annotations

from pathlib import Path

from benchmarks.rehearsal.qwen import teach_calls, tiny_qwen, true_processor, write_tiny_qwen
from benchmarks.rehearsal.refocus_fixture import write_fixture
from iapo.config import Config
from iapo.data.refocus import read_refocus
from iapo.provenance import atomic_directory

_FIGURES, _QUESTIONS = 6, 2
"""Of each file, and of each figure: enough for three splits, few enough to evaluate in seconds."""
_LESSONS = {"student": 200, "teacher": 30}
"""Optimiser steps; the teacher is the student, taught a little longer."""


def make_hub(folder: Path, config: Config) -> None:
    """Write every repository that the configuration downloads, each whole or not at all.

    Args:
        folder: gets ``<owner>/<name>/`` for the data and each model; what is there is replaced.
        config: of the rehearsal.

    Raises:
        ValueError: for a configuration without ReFocus's data or without pretrained models.
    """
    refocus, student, teacher = config.data.refocus, config.student.model.pretrained, config.teacher.model.pretrained
    if refocus is None or student is None or teacher is None:
        raise ValueError("found a configuration of the mini world; expected config/paper.yaml with an overlay")
    data = folder / refocus.source.repo
    write_fixture(data, figures_per_file=_FIGURES, questions_per_figure=_QUESTIONS)
    shown = [example for examples in read_refocus(data, refocus).examples["train"].values() for example in examples]
    processor = true_processor()
    # Taught on images as the run will show them.
    bounds = {"shortest_edge": student.min_pixels, "longest_edge": student.max_pixels}
    processor.image_processor.size = bounds
    model = tiny_qwen(processor.tokenizer, seed=0)
    for (name, steps), pretrained in zip(_LESSONS.items(), (student, teacher), strict=True):
        teach_calls(model, processor, shown, steps, name=f"tiny Qwen2.5-VL, {name}")
        with atomic_directory(folder / pretrained.source.repo) as partial:
            write_tiny_qwen(partial, model, processor)
