"""What lmms-eval calls for each item: the prompt, the score, the mean."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from iapo.answers import extract, score
from iapo.data.store import example_from_row
from iapo.prompts import open_image, prompt_messages


def doc_to_messages(doc: dict[str, Any], *_: Any, **__: Any) -> list[dict[str, Any]]:
    """The prompt as chat messages, for models other than ours."""
    return prompt_messages(example_from_row(doc))


def doc_to_visual(doc: dict[str, Any]) -> list[Any]:
    """The figure."""
    return [open_image(example_from_row(doc))]


def doc_to_text(doc: dict[str, Any]) -> str:
    """Context and request."""
    return f"{doc['context']}\n{doc['request']}"


def process_results(doc: dict[str, Any], results: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Score one response with the matcher that the reward uses.

    Args:
        doc: a row of the test set.
        results: one response: our agent's JSON, or another model's plain text.

    Returns:
        ``accuracy`` → the item's record; :func:`mean_score` reads its ``score``.
    """
    response = _response(results[0])
    answer = extract(response.pop("answer_turn"))
    record = {
        "example_id": doc["example_id"],
        "figure_id": json.loads(doc["figure"])["figure_id"],
        "turns": json.dumps(response.pop("turns"), ensure_ascii=False),
        "answer": answer,
        "gold": doc["answer"],
        "score": score(answer, doc["answer"], doc["metric"]),
        **response,
    }
    return {"accuracy": record}


def _response(text: str) -> dict[str, Any]:
    try:
        response = json.loads(text)
    except ValueError:
        response = None
    if isinstance(response, dict) and "answer_turn" in response:
        return response
    no_call = {"call": None, "called": False, "call_ok": False, "truncated": False}
    return {"turns": [text], "answer_turn": text, **no_call}


def mean_score(records: Sequence[dict[str, Any]]) -> float:
    """Accuracy in [0, 1]."""
    return sum(record["score"] for record in records) / len(records)
