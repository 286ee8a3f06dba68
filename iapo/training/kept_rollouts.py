"""Rollouts of training that are kept to be looked at: whole groups, as parquet with their figures.

Any reader of parquet opens the files, Hugging Face's dataset viewer among them. Nothing reads them to train.

B: rollouts of one process. G: rollouts of a group. T: terms of the reward.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features, Image, List, Value
from torch import Tensor

from iapo.artifacts.files import atomic_write
from iapo.data.prompts import Message, content_text
from iapo.rewards.advantages import AdvantageRule
from iapo.rollout.turns import ToolTurn
from iapo.training.rollout_recorder import RolloutRow

KEPT_GROUPS = 8
"""Groups that are kept of a step, at most."""

FOLDER = "rollouts"
"""Where they are below a run directory."""

_DICTIONARY_BYTES = 2**28
"""Room for a column's distinct values: a group's figure is then stored once, however large it is."""


def kept_path(run_dir: Path, step: int) -> Path:
    """Return the file of a step's rollouts."""
    return run_dir / FOLDER / f"step{step:06d}.parquet"


def kept_rows(
    step: int,
    rows: Sequence[RolloutRow],
    turns: Sequence[ToolTurn],
    completions: Sequence[Sequence[Message]],
    rewards: Tensor,
    advantages: Tensor,
    rule: AdvantageRule,
) -> list[dict[str, Any]]:
    """Return the first groups of a step as rows, one a rollout.

    Args:
        step: number of the step, from 1.
        rows: [B] dataset rows with the columns that the trainers added; groups consecutive.
        turns: [B] first turns.
        completions: [B] messages after the prompt.
        rewards: [B, T] unweighted; NaN where a term does not apply.
        advantages: [B] as they enter the loss.
        rule: the terms, their weights and G.
    """
    count = min(len(rows) // rule.group_size, KEPT_GROUPS) * rule.group_size
    figures = [_png(rows[first]) for first in range(0, count, rule.group_size)]
    return [
        {
            "step": step,
            "group": i // rule.group_size,
            "image": {"bytes": figures[i // rule.group_size], "path": None},
            "turns": _transcript(turns[i], completions[i]),
            "advantage": float(advantages[i]),
            **{f"reward/{name}": float(value) for name, value in zip(rule.names, rewards[i], strict=True)},
            **{f"weight/{name}": weight for name, weight in zip(rule.names, rule.weights, strict=True)},
            **_facts(rows[i]),
        }
        for i in range(count)
    ]


def write_kept(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows of :func:`kept_rows` with the types by which Hugging Face's ``datasets`` shows figures."""
    terms = [name for name in rows[0] if name.startswith(("reward/", "weight/"))]
    features = Features(
        {
            "step": Value("int32"),
            "group": Value("int32"),
            "example_id": Value("string"),
            "image": Image(),
            "request": Value("string"),
            "answer": Value("string"),
            "focus_labels": List(Value("string")),
            "turns": List(Value("string")),
            "call_status": Value("string"),
            **dict.fromkeys(terms, Value("float32")),
            "advantage": Value("float32"),
            "cache_hit": Value("string"),
            "student_shares": List(Value("float32")),
            "teacher_shares": List(Value("float32")),
            "figure": Value("string"),
        }
    )
    table = pa.Table.from_pylist(list(rows), schema=features.arrow_schema)
    with atomic_write(path) as tmp:
        pq.write_table(table, tmp, compression="zstd", dictionary_pagesize_limit=_DICTIONARY_BYTES)


def _facts(row: RolloutRow) -> dict[str, Any]:
    """What a dataset row says of its question and, where the method compares with a teacher, of the comparison."""
    return {
        "example_id": row["example_id"],
        "request": row["prompt"][0]["content"][-1]["text"],
        "answer": row["answer"],
        "focus_labels": row["focus_labels"],
        "figure": row["figure"],
        "call_status": row["call_status"],
        "cache_hit": row.get("cache_hit"),
        "student_shares": _shares(row.get("student_block_sums")),
        "teacher_shares": _shares(row.get("teacher_block_sums")),
    }


def _shares(sums: Sequence[float] | None) -> list[float] | None:
    """Shares of the blocks' magnitudes, [K]; None without block sums, or where all are zero.

    Written here and not taken from :mod:`iapo.alignment`: an edit there would train again what compares nothing.
    """
    total = sum(map(abs, sums or ()))
    return [abs(each) / total for each in sums] if sums and total else None


def _transcript(turn: ToolTurn, completion: Sequence[Message]) -> list[str]:
    """The first turn as it was sampled, then the tools' replies and the answer; images are written as ``<image>``."""
    return [turn.text, *(content_text(message["content"]) for message in completion[1:])]


def _png(row: RolloutRow) -> bytes:
    content = io.BytesIO()
    row["images"][0].save(content, "PNG")
    return content.getvalue()
