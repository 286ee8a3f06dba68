"""What lmms-eval calls for each item: the prompt, the score, the mean."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from iapo.answers import extract, score
from iapo.data.store import example_from_row
from iapo.prompts import ANSWER_PREFIX, open_image, prompt_messages

INSTRUCTION = (
    f'Close with a line that holds only "{ANSWER_PREFIX}" and the answer, as short as it can be: the number, the '
    "label, or for a statement true or false. Separate several answers by ||."
)
"""What our policies know by training and another model has to be told."""


def doc_to_messages(doc: dict[str, Any], *_: Any, **__: Any) -> list[dict[str, Any]]:
    """The prompt in lmms-eval's chat protocol, for models other than ours."""
    (message,) = prompt_messages(example_from_row(doc))
    parts = [
        {"type": "image", "url": part["image"]} if part["type"] == "image" else part for part in message["content"]
    ]
    return [{"role": message["role"], "content": [*parts, {"type": "text", "text": "\n" + INSTRUCTION}]}]


def doc_to_visual(doc: dict[str, Any]) -> list[Any]:
    """The figure."""
    return [open_image(example_from_row(doc))]


def doc_to_text(doc: dict[str, Any]) -> str:
    """Context, request and how to answer."""
    return f"{doc['context']}\n{doc['request']}\n{INSTRUCTION}"


def process_results(doc: dict[str, Any], results: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Score one response with the matcher that the reward uses.

    Args:
        doc: a row of the test set.
        results: one response: our agent's JSON, or another model's plain text.

    Returns:
        ``accuracy`` → the item's record; :func:`mean_score` reads its ``score``.
    """
    response = _response(results[0])
    record = {
        "example_id": doc["example_id"],
        "figure_id": json.loads(doc["figure"])["figure_id"],
        "turns": json.dumps(response.pop("turns"), ensure_ascii=False),
        "gold": doc["answer"],
    }
    for mode in ("", "_original", "_off"):
        record["answer" + mode], record["score" + mode] = _answer_and_score(response.pop("answer_turn" + mode), doc)
    return {"accuracy": record | response}


def _answer_and_score(turn: str | None, doc: dict[str, Any]) -> tuple[str | None, float | None]:
    """What a turn answers and whether this is right; None for both where the question was not put this way."""
    if turn is None:
        return None, None
    answer = extract(turn)
    return answer, score(answer, doc["answer"], doc["metric"])


def _response(text: str) -> dict[str, Any]:
    try:
        response = json.loads(text)
    except ValueError:
        response = None
    if isinstance(response, dict) and "answer_turn" in response:
        return response
    # A plain reply, given without our tools and asked for once.
    unasked = {"answer_turn_original": None, "answer_turn_off": None}
    no_call = {"call": None, "called": False, "call_ok": False, "truncated": False}
    return {"turns": [text], "answer_turn": text, **unasked, **no_call}


def mean_score(records: Sequence[dict[str, Any]]) -> float:
    """Accuracy in [0, 1]."""
    return sum(record["score"] for record in records) / len(records)
