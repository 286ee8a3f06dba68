"""What a record says of the call: whether it is the annotated one, whatever the answer."""

import json
from typing import Any

import pytest

from benchmarks.tasks.scoring import process_results

DOC: Any = {
    "example_id": "e", "figure": json.dumps({"figure_id": "f"}), "focus_labels": ["Chad", "Mali"], "answer": "1",
    "metric": "exact", "test_set": "vwtq",
}  # fmt: skip


def call_of(*labels: str) -> str:
    return json.dumps({"name": "focus_on_rows_with_draw", "arguments": {"rows_to_focus_on": list(labels)}})


@pytest.mark.parametrize(
    ("call", "works", "right"),
    [
        (call_of("Mali", "Chad"), True, True),
        (call_of("Mali", "Chad"), False, False),
        (call_of("Chad"), True, False),
        (call_of("Chad", "Mali", "Peru"), True, False),
        (None, False, False),
    ],
    ids=["all labels", "a call that failed", "one of two", "one too many", "none"],
)
def test_the_annotated_call_is_told_from_others(call: str | None, works: bool, right: bool) -> None:
    response = {
        "turns": ["", "FINAL ANSWER: 2"], "answer_turn": "FINAL ANSWER: 2", "answer_turn_original": None,
        "answer_turn_off": None, "call": call, "called": True, "call_ok": works, "truncated": False,
    }  # fmt: skip
    record = process_results(DOC, [json.dumps(response)])["accuracy"]
    assert record["call_right"] is right and record["score"] == 0


def test_a_plain_reply_makes_no_call() -> None:
    assert process_results(DOC, ["FINAL ANSWER: 1"])["accuracy"]["call_right"] is False
