"""The cache: what changes a key, what a look-up finds, what a damaged file gets."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from iapo.config import AlignmentConfig, AttributionConfig
from iapo.rewards import alignment_reward, outcome_reward
from iapo.teacher_cache import CacheError, CacheRow, TeacherCache, fingerprint, prompt_key, write_cache
from iapo.types import ToolCall

SETTINGS = AttributionConfig()
PIXELS, GRID = torch.zeros(4, 3), torch.tensor([[1, 2, 2]])


def row(name: str, labels: tuple[str, ...], value: float, key: str = "k") -> CacheRow:
    call = ToolCall(f"focus_on_{name}", labels)
    return CacheRow(key, call, (value, 0, 0, 0), (value, 0, 0, 0), 1, 0, "sampled", None, "")


def test_each_ingredient_changes_the_key() -> None:
    base = fingerprint("w", "p", SETTINGS)
    fingerprints = [
        base,
        fingerprint("w2", "p", SETTINGS),
        fingerprint("w", "p2", SETTINGS),
        fingerprint("w", "p", replace(SETTINGS, points=9)),
        fingerprint("w", "p", replace(SETTINGS, tolerance=0.2)),
    ]
    keys = [prompt_key(each, [1, 2], PIXELS, GRID) for each in fingerprints]
    keys += [
        prompt_key(base, [1, 3], PIXELS, GRID),
        prompt_key(base, [12], PIXELS, GRID),
        prompt_key(base, [1, 2], PIXELS + 1e-6, GRID),
        prompt_key(base, [1, 2], PIXELS.reshape(3, 4), GRID),
        prompt_key(base, [1, 2], PIXELS, GRID + 1),
    ]
    assert len(set(keys)) == len(keys)
    assert fingerprint("w", "p", replace(SETTINGS, rows_per_forward=1)) == base


def test_look_up_goes_from_exact_to_same_tool_to_nearest(tmp_path: Path) -> None:
    rows = [row("rows_with_mask", ("a",), 1), row("rows_with_mask", ("b",), 3), row("rows_with_draw", ("a",), 5)]
    write_cache(tmp_path, "f", rows)
    cache = TeacherCache(tmp_path)

    def found(name: str, *labels: str) -> tuple[str, float]:
        hit = cache.lookup("k", ToolCall(f"focus_on_{name}", labels))
        assert hit is not None
        return hit.kind, hit.signed[0]

    assert found("rows_with_mask", "a", "a") == ("exact", 1)
    assert found("rows_with_mask", "a", "c") == ("same_tool", 1)
    assert found("rows_with_mask", "c") == ("same_tool", 2)
    assert found("rows_with_highlight", "b") == ("nearest", 3)
    assert cache.lookup("other", rows[0].call) is None


def test_adding_rows_keeps_the_old_shards_and_no_row_twice(tmp_path: Path) -> None:
    first = write_cache(tmp_path, "f", [row("rows_with_mask", ("a",), 1)])
    second = write_cache(tmp_path, "f", [row("rows_with_mask", ("a",), 9), row("rows_with_mask", ("b",), 2)])
    assert first["shards"].items() <= second["shards"].items()
    assert sorted(r.signed[0] for r in TeacherCache(tmp_path).rows) == [1, 2]
    with pytest.raises(CacheError, match="fingerprint"):
        write_cache(tmp_path, "g", [])


def test_a_damaged_or_missing_shard_is_named(tmp_path: Path) -> None:
    (name,) = write_cache(tmp_path, "f", [row("rows_with_mask", ("a",), 1)])["shards"]
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(CacheError, match=name):
        TeacherCache(tmp_path)
    with pytest.raises(CacheError, match=r"manifest\.json not found"):
        TeacherCache(tmp_path / "nowhere")


P, R = [1.0, 0, 0, 0], [0, 1.0, 0, 0]


@pytest.mark.parametrize(
    ("student", "teacher", "missing", "expected"),
    [
        ([P, R], [P, P], "group_mean", [0, -1]),
        ([P, R, None], [P, P, None], "group_mean", [0, -1, -0.5]),
        ([P, R, None], [P, P, None], "bound", [0, -1, -1]),
        ([None, None], [None, None], "bound", [0, 0]),
        ([P, R], [None, None], "group_mean", [0, 0]),
    ],
)
def test_the_penalty_in_each_edge_case(student: list, teacher: list, missing: str, expected: list[float]) -> None:
    config = AlignmentConfig(missing_call=missing, smoothing=1e-9)  # type: ignore[arg-type]
    keys = ["g"] * len(student)
    rewards = alignment_reward([[]] * len(student), student, teacher, keys, config=config)
    assert rewards == pytest.approx(expected, abs=1e-6)


def test_a_missing_call_gets_its_own_group_s_mean() -> None:
    rewards = alignment_reward([[]] * 4, [P, None, R, None], [P, None, P, None], ["a", "a", "b", "b"])
    assert rewards[0] == pytest.approx(rewards[1]) and rewards[2] == pytest.approx(rewards[3])
    assert rewards[0] > rewards[2] + 0.9


def test_a_rollout_that_ends_in_a_call_has_no_answer() -> None:
    call = {"role": "assistant", "content": "FINAL ANSWER: 1", "tool_calls": [{}]}
    done = {"role": "assistant", "content": [{"type": "text", "text": "FINAL ANSWER: 1"}]}
    assert outcome_reward([[call], [done]], ["1", "1"], ["exact", "exact"]) == [0.0, 1.0]
