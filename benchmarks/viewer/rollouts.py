"""What the viewer shows, as JSON: the questions, and in columns over them every policy's answers.

Texts are stored once and named by their numbers, since thirty thousand answers share some thousand turns.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

from benchmarks.records import RecordsError
from benchmarks.results import Results
from benchmarks.viewer.pictures import DrawingError, Pictures, turn_calls
from iapo.config.schema import Config
from iapo.types import CallStatus, Example, ToolCall

Record = Mapping[Hashable, Any]
"""A row of :data:`benchmarks.records.SCHEMA`."""

_NUMBERS = ("score", "score_original", "score_off")
_TEXTS = ("answer", "answer_original", "answer_off")
_SIGNS = ("call_right", "truncated")
_COLUMNS = (*_TEXTS, *_NUMBERS, *_SIGNS, "status", "call", "edit", "turns")


class Texts:
    """Texts by number, each once."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def number(self, text: str | None) -> int | None:
        """Return a text's number, a new one if need be; None for no text."""
        return None if text is None else self.numbers.setdefault(text, len(self.numbers))


def rollouts(results: Results, examples: Iterable[Example]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what the page shows and, apart from it, its pictures.

    Args:
        results: records of the policies; those that are missing leave gaps.
        examples: the questions that were asked, with their figures.

    Returns:
        The questions and the answers; test set → figures and layers, as :meth:`Pictures.as_json` has them.

    Raises:
        RecordsError: for a record without its question, or whose call cannot be drawn on its figure.
    """
    runs = {run: number for number, run in enumerate(_found_runs(results))}
    records = _by_question(results)
    texts, questions = Texts(), []
    pictures = {name: Pictures() for name in results.sets}
    columns: list[dict[str, list[Any]]] = [{name: [] for name in _COLUMNS} for _ in runs]
    for example in examples:
        here = pictures[example.test_set]
        number = len(here.figures)
        questions.append(_question(example, number, here.add_figure(example)))
        answers = {(row["method"], row["seed"]): row for row in records.pop(example.example_id, ())}
        for run, column in zip(runs, columns, strict=True):
            cell = _cell(answers[run], example, here, texts) if run in answers else dict.fromkeys(_COLUMNS)
            for name, value in cell.items():
                column[name].append(value)
    if records:
        raise RecordsError(
            f"found answers to {next(iter(records))!r} but no such question in data/test; evaluate the policies again"
        )
    shown = {
        "profile": results.config.profile,
        "sets": results.sets,
        "methods": shown_methods(results.config),
        "seeds": list(results.config.seeds),
        "runs": {
            method: [runs.get((method, number)) for number in numbers]
            for method, numbers in run_numbers(results.config).items()
        },
        "texts": list(texts.numbers),
        "questions": questions,
        "columns": columns,
    }
    return shown, {name: each.as_json() for name, each in pictures.items()}


def shown_methods(config: Config) -> list[str]:
    """Return the page's columns: the methods, then the policies that no method trains."""
    return [*config.methods, *config.reference_policies]


def run_numbers(config: Config) -> dict[str, list[int]]:
    """Return, column by column, whose records belong to each of ``config.seeds``.

    A trained policy's are of the seed itself. Beside it stand the start that it was trained from and the teacher that
    it was compared with, whose records are kept under the start's number.
    """
    beside = {row: [of_seed[seed] for seed in config.seeds] for row, of_seed in config.starts_beside.items()}
    return {method: list(config.seeds) for method in config.methods} | beside


def _found_runs(results: Results) -> list[tuple[str, int]]:
    return sorted(set(zip(results.records["method"], results.records["seed"], strict=True)))


def _by_question(results: Results) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = defaultdict(list)
    here = results.records[results.records["test_set"].isin(results.sets)]
    for record in here.to_dict("records"):
        found[record["example_id"]].append(record)
    return dict(found)


def _question(example: Example, picture: int, size: tuple[int, int]) -> dict[str, Any]:
    return {
        "id": example.example_id,
        "set": example.test_set,
        "request": example.request,
        "gold": example.answer,
        "labels": list(example.focus_labels),
        "picture": picture,
        "size": size,
    }


def _cell(record: Record, example: Example, pictures: Pictures, texts: Texts) -> dict[str, Any]:
    """One policy's answer to one question; ``edit`` is the number of the layer that its calls draw."""
    turns, status = json.loads(record["turns"]), call_status(record)
    calls = turn_calls(turns[0], example) if status in ("failed", "executed") else []
    return {
        **{name: texts.number(record[name]) for name in _TEXTS},
        **{name: _number(record[name]) for name in _NUMBERS},
        **{name: int(record[name]) for name in _SIGNS},
        "status": status,
        "call": texts.number(describe(calls)) if calls else None,
        "edit": _edit(record, calls, pictures) if status == "executed" else None,
        "turns": [texts.number(turn) for turn in turns],
    }


def call_status(record: Record) -> CallStatus:
    """Return the outcome of a record's tool turn, by the names of training."""
    if not record["called"]:
        return "none"
    if record["call"] is None:
        return "malformed"
    return "executed" if record["call_ok"] else "failed"


def describe(calls: Sequence[ToolCall]) -> str:
    """Return calls for a reader: ``mask rows: Italy, Spain``."""
    return ", then ".join(f"{call.mode} {call.family}: {', '.join(call.labels) or 'no label'}" for call in calls)


def _edit(record: Record, calls: Sequence[ToolCall], pictures: Pictures) -> int | None:
    try:
        if not calls:
            raise DrawingError(f"{record['example_id']}: found {record['call']} recorded but not in the turn")
        return pictures.layer(calls)
    except DrawingError as error:
        raise RecordsError(f"{record['method']} seed {record['seed']}: {error}; evaluate this policy again") from None


def _number(value: float | None) -> float | int | None:
    """A score, without the decimals of a whole number."""
    if value is None or math.isnan(value):
        return None
    return int(value) if value == int(value) else round(value, 4)
