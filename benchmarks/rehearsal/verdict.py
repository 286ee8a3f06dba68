"""Did the rehearsal rehearse? A run can come to its end without one call made; that is no sign that a GPU run works."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from benchmarks.records import read_run
from iapo.config import Config
from iapo.teacher_cache import TeacherCache

_BLOCKS = ("plain text", "request", "image", "tool definitions")


def shortcomings(folder: Path, config: Config) -> list[str]:
    """What a finished rehearsal left undone, a sentence each.

    Args:
        folder: ``results/<profile>``.
        config: of the rehearsal.

    Returns:
        Nothing where calls were made, carried out, attributed to every block, rewarded and evaluated.
    """
    return [*_training(folder, config), *_attribution(folder), *_evaluation(folder, config)]


def _training(folder: Path, config: Config) -> Iterator[str]:
    runs = {"the teacher": folder / f"teacher/seed{config.teacher.train_seed}"}
    runs |= {name: folder / f"train/{name}/seed{seed}" for name in config.methods for seed in config.seeds}
    if config.student.first_stage:
        runs["the first stage"] = folder / "first_stage"
    for name, run in runs.items():
        metrics = pd.read_csv(run / "metrics.csv")
        for column, done in (("tools/call_rate", "made"), ("tools/success_rate", "carried out")):
            if not (metrics[column] > 0).any():
                yield f"training {name}: no call was {done}; do the template and the syntax of calls agree?"
        if not metrics["loss"].notna().all():
            yield f"training {name}: the loss is not a number"


def _attribution(folder: Path) -> Iterator[str]:
    cache = TeacherCache(folder / "teacher/cache/main")
    sums = [hit.signed for key in cache.prompts if (hit := cache.teacher_call(key)) is not None]
    if not sums:
        yield "the teacher's cache holds no call that the teacher made"
    for block, name in enumerate(_BLOCKS):
        if sums and not any(each[block] for each in sums):
            yield f"the {name} has no share in any call; does the template show it?"


def _evaluation(folder: Path, config: Config) -> Iterator[str]:
    for name in config.methods:
        for seed in config.seeds:
            records = read_run(folder / f"eval/{name}/seed{seed}/records.parquet")
            absent = sorted(set(config.test_sets) - set(records["test_set"]))
            if absent:
                yield f"{name}: no question of {', '.join(absent)} was evaluated"
            if not (records["called"] & records["call_ok"]).any():
                yield f"{name}: no call was carried out in evaluation"
