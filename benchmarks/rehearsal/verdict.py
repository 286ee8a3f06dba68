"""Verdict on a finished rehearsal: did it exercise what the GPU run needs?

A run can finish without a single tool call, which would prove nothing about the GPU run.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from benchmarks.records import read_run
from iapo.config.schema import Config
from iapo.teacher.cache import TeacherCache

_BLOCKS = ("plain text", "request", "image", "tool definitions")


def shortcomings(folder: Path, config: Config) -> list[str]:
    """Return what a finished rehearsal failed to exercise, one sentence each.

    Args:
        folder: ``results/<profile>``.
        config: configuration of the rehearsal.

    Returns:
        An empty list if calls were made, executed, attributed to every block, rewarded and evaluated.
    """
    return [*_training(folder, config), *_attribution(folder), *_evaluation(folder, config), *_released(folder, config)]


def padding(folder: Path, config: Config) -> str:
    """Return one sentence on the padding of the methods' passes, as TRL makes them and as they were taken.

    Args:
        folder: ``results/<profile>``.
        config: configuration of the rehearsal.
    """
    runs = [folder / f"train/{name}/seed{seed}/metrics.csv" for name in config.methods for seed in config.seeds]
    metrics = pd.concat([pd.read_csv(run) for run in runs])
    untrimmed, taken = metrics["passes/padding_untrimmed"].mean(), metrics["passes/padding"].mean()
    return f"Of a training pass {untrimmed:.0%} would be padding, {taken:.0%} is, cut to its own rollouts."


def _training(folder: Path, config: Config) -> Iterator[str]:
    runs = {name: folder / f"train/{name}/seed{seed}" for name in config.methods for seed in config.seeds}
    if config.teacher.trained:
        runs["the teacher"] = folder / f"teacher/start0/seed{config.teacher.train_seed}"
    if config.student.first_stage:
        runs["the first stage"] = folder / "first_stage/start0"
    executed_calls: float = 0
    for name, run in runs.items():
        metrics = pd.read_csv(run / "metrics.csv")
        executed_calls += (metrics["tools/success_rate"] > 0).sum()
        if not (metrics["tools/call_rate"] > metrics["tools/malformed_rate"]).any():
            yield f"training {name}: no call was well formed; do the template and the syntax of calls agree?"
        if not metrics["loss"].notna().all():
            yield f"training {name}: the loss is not a number"
        if "alignment/penalty" in metrics and not metrics["alignment/penalty"].notna().any():
            yield f"training {name}: no call was compared with the teacher's attribution"
    if not executed_calls:
        yield "no call was carried out in training"


def _attribution(folder: Path) -> Iterator[str]:
    cache = TeacherCache(folder / "teacher/start0/cache/main")
    sums = [hit.signed for key in cache.prompts if (hit := cache.teacher_call(key)) is not None]
    if not sums:
        yield "the teacher's cache holds no call that the teacher made"
    for block, name in enumerate(_BLOCKS):
        if sums and not any(each[block] for each in sums):
            yield f"the {name} has no share in any call; does the template show it?"


def _evaluation(folder: Path, config: Config) -> Iterator[str]:
    paths = [folder / f"eval/{name}/seed{seed}/records.parquet" for name in config.methods for seed in config.seeds]
    executed_calls: float = 0
    for path in paths:
        records = read_run(path)
        executed_calls += (records["called"] & records["call_ok"]).sum()
        absent = sorted(set(config.test_sets) - set(records["test_set"]))
        if absent:
            yield f"{path}: no question of {', '.join(absent)}"
    if not executed_calls:
        yield "no call was carried out in evaluation"


def _released(folder: Path, config: Config) -> Iterator[str]:
    for name in config.released:
        records = read_run(folder / f"eval/{name}/seed0/records.parquet")
        if not (records["called"] & records["call_ok"]).any():
            yield f"evaluating {name}: no call in VTool-R1's syntax was carried out"
