"""The audit's look at a cache once the calls that training missed are in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.audit.cache import CacheAudit, filled
from iapo.attribution.scoring import score_turns
from iapo.config.schema import Config, TeacherConfig
from iapo.rollout.call_sampling import MISSES, SampledCall, read_misses
from iapo.teacher.build_cache import TeacherPass, cache_row
from iapo.teacher.cache import CacheHit, TeacherCache
from iapo.teacher.online_scoring import turns_of
from iapo.teacher.writer import CacheWriter
from iapo.tools.parsing import parse_turn
from iapo.types import Example

OWN, NEW = (
    f'<tool_call>{{"name": "focus_on_rows_with_draw", "arguments": {{"rows_to_focus_on": ["{label}"]}}}}</tool_call>'
    for label in ("own", "new")
)
CONFIG = Config(profile="test", teacher=TeacherConfig(sampled_calls=1))


@pytest.fixture
def prompt(tiny: tuple[Any, Any], test_examples: list[Example], tmp_path: Path) -> tuple[Example, str]:
    """A prompt with one cached call, and its key."""
    example = test_examples[0]
    writer = CacheWriter(tmp_path / "cache", "f")
    key = TeacherPass(*tiny, CONFIG, writer).keys([example])[example.example_id]
    turns = turns_of(tiny[1], {example.example_id: example}, [SampledCall(example.example_id, 0, OWN, True)])
    result = score_turns(tiny[0], tiny[1].tokenizer, turns, CONFIG.teacher_attribution)
    row = cache_row(key, turns[0], result, 0, source="sampled", rank=0, correct=True)
    writer.add([row], prompts=[key], candidates="x")
    return example, key


def lookup(cache: TeacherCache, key: str, text: str) -> CacheHit:
    hit = cache.lookup(key, parse_turn(text).calls[0])
    assert hit is not None
    return hit


def test_missed_calls_are_scored_in_a_copy(tiny: tuple[Any, Any], prompt: tuple[Example, str], tmp_path: Path) -> None:
    (example, key), cache = prompt, tmp_path / "cache"
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / MISSES).write_text(json.dumps({"prompt_key": key, "turn": NEW, "count": 3}) + "\n")
    misses = read_misses([tmp_path / "work"])
    assert misses == {key: parse_turn(NEW).calls}
    fuller = filled(cache, tiny, [example], misses, CONFIG)
    assert lookup(fuller, key, NEW).kind == "exact"
    assert lookup(fuller, key, OWN).signed == lookup(TeacherCache(cache), key, OWN).signed
    assert lookup(TeacherCache(cache), key, NEW).kind == "same_tool"


def test_agreement_is_lost_where_another_call_stands_in() -> None:
    """Two groups: the first is in the cache, the second's penalties are of other calls and fall the other way."""
    audit = CacheAudit(
        cached=[0.1, 0.2, 0.4, 0.3],
        live=[0.1, 0.2, 0.3, 0.4],
        groups=["a", "a", "b", "b"],
        correct=[True] * 4,
        exact=[True, True, False, False],
        hits={},
        live_seconds=0.0,
        lookup_seconds=0.0,
        student=None,  # type: ignore[arg-type]
        teacher=None,  # type: ignore[arg-type]
    )
    assert audit.within_group_r == pytest.approx(0.0, abs=1e-12)
    assert audit.within_group_r_exact == pytest.approx(1.0)
