"""The options beside each other: what they tell, and what they err by."""

from __future__ import annotations

import math
from typing import Any

import pytest

from benchmarks.audit import teachers
from iapo.config.schema import AuditConfig, Config
from iapo.rollout.call_sampling import SampledCall
from iapo.types import Example

CALLS = [
    f'<tool_call>{{"name": "focus_on_rows_with_draw", "arguments": {{"rows_to_focus_on": ["{label}"]}}}}</tool_call>'
    for label in ("one", "two")
]
CONFIG = Config(profile="test", audit=AuditConfig(reference_steps=64))


def test_coarse_options_are_known_by_their_error(
    trained_looking: Any, tiny: tuple[Any, Any], test_examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {
        "fine": {"attribution": {"n_steps": 16}},
        "coarse": {"attribution": {"n_steps": 1, "tolerance": 1e9}},
        "attention": {"attribution": {"method": "attention"}},
    }
    monkeypatch.setattr(teachers, "OPTIONS", options)
    policy = (trained_looking, tiny[1])
    prompts = {example.example_id: example for example in test_examples[:2]}
    calls = [SampledCall(name, i, text, i == 0) for name in prompts for i, text in enumerate(CALLS)]
    rows = teachers.compare_options(policy, {0: policy, 1: policy}, prompts, calls, CONFIG)
    assert [(row["option"], row["teacher_seed"]) for row in rows] == [(name, s) for name in options for s in (0, 1)]
    error = {row["option"]: row["tv_mean"] for row in rows}
    assert error["fine"] < 0.01 < error["coarse"]
    assert math.isnan(error["attention"])
