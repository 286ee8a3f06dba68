"""The functions that lmms-eval's task files name: prompt rendering, scoring of one item, and the mean score."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, TypedDict

from PIL.Image import Image

from iapo.data.prompts import ANSWER_PREFIX, Message, open_image, prompt_messages
from iapo.data.store import ExampleRow, example_from_row
from iapo.rewards.answers.extraction import extract
from iapo.rewards.answers.matching import score
from iapo.rewards.answers.official import official_score

INSTRUCTION = (
    f'Close with a line that holds only "{ANSWER_PREFIX}" and the answer, as short as it can be: the number, the '
    "label, or for a statement true or false. Separate several answers by ||."
)
"""Instruction for models that were not trained on this task."""


class ScoredItem(TypedDict):
    """The part of an item's record that the mean score needs."""

    score: float


def doc_to_messages(doc: ExampleRow, *_: object, **__: object) -> list[Message]:
    """Return the prompt in lmms-eval's chat format, for models other than this project's policies."""
    (message,) = prompt_messages(example_from_row(doc))
    parts = [
        {"type": "image", "url": part["image"]} if part["type"] == "image" else part for part in message["content"]
    ]
    return [{"role": message["role"], "content": [*parts, {"type": "text", "text": "\n" + INSTRUCTION}]}]


def doc_to_visual(doc: ExampleRow) -> list[Image]:
    """Return the figure's image."""
    return [open_image(example_from_row(doc))]


def doc_to_text(doc: ExampleRow) -> str:
    """Return the prompt's text: context, request and instruction."""
    return f"{doc['context']}\n{doc['request']}\n{INSTRUCTION}"


def process_results(doc: ExampleRow, results: Sequence[str]) -> dict[str, dict[str, object]]:
    """Score one response with the answer matching of the outcome reward.

    Args:
        doc: a row of the test set.
        results: a single response: JSON from :class:`benchmarks.agent.FigureAgent`, or another model's plain text.

    Returns:
        ``accuracy`` → the item's record, whose ``score`` :func:`mean_score` averages.
    """
    response = _response(results[0])
    figure_id = json.loads(doc["figure"])["figure_id"]
    record: dict[str, Any] = {
        "example_id": doc["example_id"],
        "figure_id": figure_id,
        # A policy that cannot find a label fails all questions about it, in every test set.
        "cluster": " | ".join(sorted(doc["focus_labels"])) or figure_id,
        "turns": json.dumps(response.pop("turns"), ensure_ascii=False),
        "gold": doc["answer"],
    }
    for mode in ("", "_original", "_off"):
        record["answer" + mode], record["score" + mode] = _answer_and_score(response.pop("answer_turn" + mode), doc)
    record["call_right"] = response["call_ok"] and _names_labels(response["call"], doc["focus_labels"])
    record["score_official"] = official_score(record["answer"], doc["answer"], doc["test_set"])
    return {"accuracy": record | response}


def _answer_and_score(turn: str | None, doc: ExampleRow) -> tuple[str | None, float | None]:
    """The answer extracted from a turn and its score; None for both if there is no such turn."""
    if turn is None:
        return None, None
    answer = extract(turn)
    return answer, score(answer, doc["answer"], doc["metric"])


def _names_labels(call: str | None, labels: Sequence[str]) -> bool:
    """Whether a call, in canonical JSON, names exactly these labels; no call names none."""
    if call is None:
        return False
    (named,) = json.loads(call)["arguments"].values()
    return set(named) == set(labels)


def _response(text: str) -> dict[str, Any]:
    try:
        response = json.loads(text)
    except ValueError:
        response = None
    if isinstance(response, dict) and "answer_turn" in response:
        return response
    # A plain reply of another model, which has no tools and answers once.
    unasked = {"answer_turn_original": None, "answer_turn_off": None}
    no_call = {"call": None, "called": False, "call_ok": False, "truncated": False}
    return {"turns": [text], "answer_turn": text, **unasked, **no_call}


def mean_score(records: Sequence[ScoredItem]) -> float:
    """Return the mean score of the records, in [0, 1]."""
    return sum(record["score"] for record in records) / len(records)
