"""What the page of training's rollouts shows, as JSON: run by run and step by step the groups that were kept.

They lie in the runs' own folders (:mod:`iapo.training.kept_rollouts`), so a results folder without these has none.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.viewer.pictures import DrawingError, Pictures, turn_calls
from benchmarks.viewer.rollouts import Texts, describe
from iapo.artifacts.run_record import RECORD_SUFFIX, difference_from_record
from iapo.config.schema import Config
from iapo.data.store import figure_from_json
from iapo.types import Example

SET = "training"
"""Name of the page's one block of pictures."""

_FLAT = 1e-6
"""Largest advantage of a group in which nothing is learned; rounding errors stay below it."""

Row = dict[str, Any]


class KeptRolloutsError(RuntimeError):
    """A file of kept rollouts that cannot be read; the message names it and says what to do."""


def training_rollouts(folder: Path, config: Config) -> tuple[Row, Row]:
    """Return what the page shows and, apart from it, its pictures.

    Args:
        folder: ``results/<profile>``.
        config: configuration of the profile.
    """
    texts, questions, pictures = Texts(), _Questions(), Pictures()
    runs = [
        {"method": method, "seed": seed, "steps": steps}
        for method, seed in config.trained_runs
        if (steps := [_step(path, questions, texts) for path in _files(folder, method, seed)])
    ]
    questions.draw(pictures)
    shown = {
        "profile": config.profile,
        "methods": list(dict.fromkeys(run["method"] for run in runs)),
        "seeds": [seed for seed in config.seeds if any(run["seed"] == seed for run in runs)],
        "runs": runs,
        "questions": questions.shown,
        "texts": list(texts.numbers),
    }
    return shown, {SET: pictures.as_json()}


def _files(folder: Path, method: str, seed: int) -> Iterator[Path]:
    yield from sorted((folder / f"train/{method}/seed{seed}/work/rollouts").glob("step*.parquet"))


class _Questions:
    """The questions of all files, each once, and the rollouts whose calls are to be drawn on their figures."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._examples: list[Example] = []
        self._cells: list[list[tuple[Row, str]]] = []
        self.shown: list[Row] = []

    def number(self, row: Row) -> int:
        number = self._numbers.setdefault(row["example_id"], len(self._numbers))
        if number == len(self._examples):
            self._examples.append(_example(row))
            self._cells.append([])
        return number

    def example(self, number: int) -> Example:
        return self._examples[number]

    def add(self, number: int, cell: Row, turn: str) -> None:
        """Note that a rollout's edit is to be drawn."""
        self._cells[number].append((cell, turn))

    def draw(self, pictures: Pictures) -> None:
        """Draw figure by figure, since a decoded one is large."""
        for number, (example, cells) in enumerate(zip(self._examples, self._cells, strict=True)):
            size = pictures.add_figure(example)
            self.shown.append(
                {
                    "id": example.example_id,
                    "set": SET,
                    "request": example.request,
                    "gold": example.answer,
                    "labels": list(example.focus_labels),
                    "picture": number,
                    "size": size,
                }
            )
            for cell, turn in cells:
                cell["edit"] = _edit(pictures, turn, example)


def _example(row: Row) -> Example:
    return Example(
        example_id=row["example_id"],
        test_set=SET,
        split="train",
        figure=figure_from_json(row["figure"]),
        image_png=row["image"]["bytes"],
        context="",
        request=row["request"],
        answer=row["answer"],
        metric="exact",
        focus_labels=tuple(row["focus_labels"]),
    )


def _edit(pictures: Pictures, turn: str, example: Example) -> int | None:
    try:
        return pictures.layer(turn_calls(turn, example))
    except DrawingError:
        return None


def _rows(path: Path) -> list[Row]:
    advice = "remove the file, and the page is made without that step"
    if found := difference_from_record(path.parents[2] / f"model{RECORD_SUFFIX}", path):
        raise KeptRolloutsError(f"{path}: {found}; {advice}")
    try:
        return pq.read_table(path).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise KeptRolloutsError(
            f"{path}: found {error}; expected the rollouts of a step as parquet; {advice}"
        ) from error


def _step(path: Path, questions: _Questions, texts: Texts) -> Row:
    """The groups of one file, in order."""
    groups: dict[int, Row] = {}
    terms: dict[str, float] = {}
    for row in _rows(path):
        question = questions.number(row)
        group = groups.setdefault(row["group"], {"question": question, "rollouts": []})
        group["rollouts"].append(_rollout(row, question, questions, texts))
        terms = {name.partition("/")[2]: value for name, value in row.items() if name.startswith("weight/")}
    for group in groups.values():
        group["flat"] = all(abs(rollout["advantage"]) <= _FLAT for rollout in group["rollouts"])
    return {"step": row["step"], "terms": terms, "groups": list(groups.values())}


def _rollout(row: Row, question: int, questions: _Questions, texts: Texts) -> Row:
    calls = turn_calls(row["turns"][0], questions.example(question))
    executed = row["call_status"] == "executed"
    cell: Row = {
        "turns": [texts.number(turn) for turn in row["turns"]],
        "status": row["call_status"],
        "call": texts.number(describe(calls)) if calls else None,
        "call_right": int(executed and calls[0].names(row["focus_labels"])),
        "edit": None,
        "rewards": [_rounded(value) for name, value in row.items() if name.startswith("reward/")],
        "advantage": _rounded(row["advantage"]),
        "hit": row["cache_hit"],
        "student": _shares(row["student_shares"]),
        "teacher": _shares(row["teacher_shares"]),
    }
    if executed:
        questions.add(question, cell, row["turns"][0])
    return cell


def _shares(shares: list[float] | None) -> list[float | None] | None:
    return None if shares is None else [_rounded(share) for share in shares]


def _rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 4)
