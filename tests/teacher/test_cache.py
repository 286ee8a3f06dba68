"""The cache: what changes a key, what a look-up finds, what a damaged file gets."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from iapo.config.schema import AttributionConfig
from iapo.rollout.turns import prompt_key
from iapo.teacher.cache import TeacherCache
from iapo.teacher.fingerprint import fingerprint, hash_processor, hash_weights
from iapo.teacher.rows import CacheError, CacheRow
from iapo.teacher.writer import CacheWriter
from iapo.tools.parsing import canonical
from iapo.tools.registry import TOOLS
from iapo.types import ToolCall

SETTINGS = AttributionConfig()
PIXELS, GRID = torch.zeros(4, 3), torch.tensor([[1, 2, 2]])


def row(name: str, labels: tuple[str, ...], value: float, key: str = "k") -> CacheRow:
    call = ToolCall(f"focus_on_{name}", labels)
    return CacheRow(key, call, (value, 0, 0, 0), (value + 10, 0, 0, 0), -2.0, 1.5, 0.25, "sampled", 0, None, "said")


def write_cache(directory: Path, fingerprint: str, rows: list[CacheRow], shard_rows: int = 100) -> dict[str, Any]:
    writer = CacheWriter(directory, fingerprint)
    for start in range(0, len(rows), shard_rows):
        part = rows[start : start + shard_rows]
        writer.add(part, prompts=sorted({row.prompt_key for row in part}), candidates="c")
    return json.loads((directory / "manifest.json").read_text())


ROWS = [
    row("rows_with_mask", ("a",), 1),
    row("rows_with_mask", ("b",), 3),
    row("rows_with_mask", ("b", "c"), 5),
    row("rows_with_draw", ("a",), 7),
    row("columns_with_highlight", ("d",), 9),
]


def test_each_setting_changes_the_fingerprint() -> None:
    base = fingerprint("w", "p", SETTINGS, "c")
    others = [
        fingerprint("w2", "p", SETTINGS, "c"),
        fingerprint("w", "p2", SETTINGS, "c"),
        fingerprint("wp", "", SETTINGS, "c"),
        fingerprint("w", "p", SETTINGS, "other code"),
        fingerprint("w", "p", SETTINGS, "c", "bfloat16"),
        fingerprint("w", "p", replace(SETTINGS, n_steps=9), "c"),
        fingerprint("w", "p", replace(SETTINGS, tolerance=0.2), "c"),
    ]
    assert len({base, *others}) == 1 + len(others)
    assert fingerprint("w", "p", replace(SETTINGS, tokens_per_forward=1), "c") == base


def test_the_schema_version_changes_the_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    base = fingerprint("w", "p", SETTINGS, "c")
    monkeypatch.setattr("iapo.teacher.fingerprint.SCHEMA_VERSION", 99)
    assert fingerprint("w", "p", SETTINGS, "c") != base


def test_each_ingredient_changes_the_key() -> None:
    keys = [
        prompt_key([1, 2], PIXELS, GRID),
        prompt_key([1, 3], PIXELS, GRID),
        prompt_key([2, 1], PIXELS, GRID),
        prompt_key([12], PIXELS, GRID),
        prompt_key([1, 2], PIXELS + 1e-6, GRID),
        prompt_key([1, 2], PIXELS.double(), GRID),
        prompt_key([1, 2], PIXELS.bfloat16(), GRID),
        prompt_key([1, 2], PIXELS.half(), GRID),
        prompt_key([1, 2], PIXELS.reshape(3, 4), GRID),
        prompt_key([1, 2], PIXELS, GRID + 1),
        prompt_key([1, 2], PIXELS, GRID.int()),
        prompt_key([1, 2], PIXELS),
        prompt_key([1, 2]),
        prompt_key([1, 2], None, GRID),
    ]
    assert len(set(keys)) == len(keys)
    transposed = torch.arange(12.0).reshape(3, 4).T
    assert prompt_key([1], transposed, GRID) == prompt_key([1], transposed.contiguous(), GRID)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    rows = [
        replace(ROWS[0], correct=True, signed=(0.1, -0.2, 1e-300, 4e5), source="filled"),
        replace(ROWS[1], correct=False, call_text="Ünïcode \n", source="enumerated"),
        replace(ROWS[2], call=ToolCall("focus_on_rows_with_mask", ()), prompt_key="another"),
    ]
    write_cache(tmp_path, "f", rows)
    cache = TeacherCache(str(tmp_path))
    assert cache.fingerprint == "f" and len(cache) == 3
    assert sorted(cache.rows, key=repr) == sorted(rows, key=repr)
    assert sorted(cache.prompts) == ["another", "k"]


@pytest.mark.parametrize(
    ("name", "labels", "kind", "value"),
    [
        ("rows_with_mask", "a", "exact", 1),
        ("rows_with_mask", "aa", "exact", 1),
        ("rows_with_mask", "cb", "exact", 5),
        ("rows_with_mask", "c", "same_tool", 5),
        ("rows_with_mask", "bd", "same_tool", 3),
        ("rows_with_mask", "z", "same_tool", 3),  # all three equally far
        ("rows_with_mask", "ab", "same_tool", 2),  # two ties
        ("rows_with_draw", "z", "same_tool", 7),
        ("rows_with_highlight", "b", "nearest", 3),  # another mode, the same labels
        ("rows_with_highlight", "a", "nearest", 4),  # two other modes tie
        ("rows_with_highlight", "d", "nearest", 4),  # the family counts before the labels
        ("columns_with_mask", "a", "nearest", 9),
        ("x_values_with_highlight", "a", "nearest", 9),  # of other families: the same mode first
        ("x_values_with_mask", "c", "nearest", 5),
    ],
)
def test_look_up_goes_from_exact_to_same_tool_to_nearest(
    tmp_path: Path, name: str, labels: str, kind: str, value: float
) -> None:
    write_cache(tmp_path, "f", ROWS)
    hit = TeacherCache(tmp_path).lookup("k", ToolCall(f"focus_on_{name}", tuple(labels)))
    assert hit is not None
    assert (hit.kind, hit.signed, hit.l1) == (kind, (value, 0, 0, 0), (value + 10, 0, 0, 0))


def test_a_prompt_on_which_the_teacher_made_no_call_is_told_from_an_unknown_one(tmp_path: Path) -> None:
    CacheWriter(tmp_path, "f").add(ROWS, prompts=["k", "silent"], candidates="c")
    cache = TeacherCache(tmp_path)
    for asked in (cache, cache.shuffled(0)):
        kinds = {key: asked.kind(key, asked.lookup(key, ROWS[0].call)) for key in ("k", "silent", "other")}
        assert kinds == {"k": "exact", "silent": "no_teacher_call", "other": "missing"}


def test_a_prompt_without_rows_has_no_hit(tmp_path: Path) -> None:
    write_cache(tmp_path, "f", ROWS)
    assert TeacherCache(tmp_path).lookup("other", ROWS[0].call) is None
    write_cache(tmp_path / "empty", "f", [])
    empty = TeacherCache(tmp_path / "empty")
    assert len(empty) == 0 and empty.prompts == [] and empty.lookup("k", ROWS[0].call) is None


CALLS = st.builds(ToolCall, st.sampled_from(sorted(TOOLS)), st.lists(st.sampled_from("abcd"), max_size=3).map(tuple))


@given(st.lists(CALLS, min_size=1, max_size=6), CALLS)
def test_a_hit_lies_within_the_rows_and_is_exact_when_cached(
    tmp_path_factory: pytest.TempPathFactory, calls: list[ToolCall], wanted: ToolCall
) -> None:
    path = tmp_path_factory.mktemp("cache")
    sums = [(float(i), 0, 0, 0) for i in range(len(calls))]
    write_cache(path, "f", [replace(ROWS[0], call=c, signed=s) for c, s in zip(calls, sums, strict=True)])
    hit = TeacherCache(path).lookup("k", wanted)
    assert hit is not None and 0 <= hit.signed[0] < len(calls)
    assert (hit.kind == "exact") == (canonical(wanted) in map(canonical, calls))
    assert (hit.kind == "nearest") == (wanted.name not in {call.name for call in calls})


def crowded(path: Path, prompts: int = 5) -> TeacherCache:
    """A cache with eight rows a prompt, all targets different, and one prompt with a single row."""
    names = ("rows_with_mask", "rows_with_draw", "columns_with_mask", "rows_with_highlight")
    keys = [f"{i:064x}" for i in range(prompts)]
    rows = [
        row(name, labels, 100.0 * p + 10 * i + j, key)
        for p, key in enumerate(keys)
        for i, name in enumerate(names)
        for j, labels in enumerate([("a",), ("a", "b")])
    ]
    write_cache(path, "f", [*rows, row("rows_with_mask", ("a",), -1.0, "alone")], shard_rows=16)
    return TeacherCache(path)


def targets(cache: TeacherCache, key: str) -> dict[str, tuple[float, ...]]:
    return {canonical(row.call): row.signed + row.l1 for row in cache.rows if row.prompt_key == key}


def test_the_shuffled_cache_has_the_same_targets_for_other_calls(tmp_path: Path) -> None:
    cache = crowded(tmp_path)
    moved = cache.shuffled(3)
    for key in cache.prompts:
        own, given = targets(cache, key), targets(moved, key)
        assert own.keys() == given.keys() and sorted(own.values()) == sorted(given.values())
        same = [call for call in own if own[call] == given[call]]
        assert len(same) == (1 if key == "alone" else 0)
    assert all(row.l1[0] == row.signed[0] + 10 for row in moved.rows)
    # The real cache is left as it was.
    assert all(targets(cache, key) == targets(TeacherCache(tmp_path), key) for key in cache.prompts[:1])


def test_the_shuffle_is_fixed_for_a_seed_and_drawn_anew_for_seeds_and_prompts(tmp_path: Path) -> None:
    cache = crowded(tmp_path)
    key, other = cache.prompts[:2]
    assert targets(cache.shuffled(3), key) == targets(crowded(tmp_path / "again").shuffled(3), key)
    assert len({tuple(targets(cache.shuffled(seed), key).values()) for seed in range(6)}) == 6
    first, second = ([v[0] % 100 for v in targets(cache.shuffled(3), each).values()] for each in (key, other))
    assert first != second


def test_the_shuffle_does_not_depend_on_the_order_in_which_the_cache_was_built(tmp_path: Path) -> None:
    write_cache(tmp_path / "one", "f", ROWS)
    write_cache(tmp_path / "other", "f", ROWS[::-1])
    one, other = (TeacherCache(tmp_path / name).shuffled(1) for name in ("one", "other"))
    assert targets(one, "k") == targets(other, "k")


def test_look_ups_in_the_shuffled_cache_find_the_same_calls(tmp_path: Path) -> None:
    cache = crowded(tmp_path, prompts=1)
    moved, key = cache.shuffled(0), cache.prompts[0]
    labels = [(), ("a",), ("b",), ("b", "a"), ("c", "d")]
    for call in (ToolCall(name, some) for name in sorted(TOOLS) for some in labels):
        hit, stand_in = cache.lookup(key, call), moved.lookup(key, call)
        assert hit is not None and stand_in is not None and hit.kind == stand_in.kind
        assert hit.kind != "exact" or hit.signed != stand_in.signed
        # What a contrastive penalty compares with goes with the stand-in.
        if hit.kind == "exact":
            total = sum(row.signed[0] for row in cache.rows if row.prompt_key == key)
            assert stand_in.signed[0] + 7 * stand_in.others[0] == pytest.approx(total)


def test_every_addition_is_a_shard_of_its_own(tmp_path: Path) -> None:
    rows = [replace(ROWS[0], prompt_key=f"{i:064x}") for i in (4, 2, 0, 3, 1)]
    manifest = write_cache(tmp_path, "f", rows, shard_rows=2)
    assert [facts["rows"] for facts in manifest["shards"].values()] == [2, 2, 1]
    assert sorted(TeacherCache(tmp_path).prompts) == sorted(row.prompt_key for row in rows)
    assert {path.name for path in tmp_path.iterdir()} == {"manifest.json", *manifest["shards"]}


def test_adding_rows_keeps_the_old_shards_and_no_row_twice(tmp_path: Path) -> None:
    first = write_cache(tmp_path, "f", [ROWS[0]])
    before = {name: (tmp_path / name).stat().st_mtime_ns for name in first["shards"]}
    again = replace(ROWS[0], call=ToolCall(ROWS[0].call.name, ("a", "a")), signed=(99.0, 0, 0, 0))
    second = write_cache(tmp_path, "f", [again, ROWS[1], replace(ROWS[1], source="filled")])
    assert first["shards"].items() < second["shards"].items()
    assert before == {name: (tmp_path / name).stat().st_mtime_ns for name in first["shards"]}
    assert sorted(r.signed[0] for r in TeacherCache(tmp_path).rows) == [1, 3]
    assert CacheWriter(tmp_path, "f").finished("c") == {"k"} and not CacheWriter(tmp_path, "f").finished("d")
    assert len(second["shards"]) == 2


def test_another_teacher_s_cache_is_not_mixed_in(tmp_path: Path) -> None:
    write_cache(tmp_path, "one" * 8, ROWS)
    with pytest.raises(CacheError, match=r"holds fingerprint oneoneoneone….*two.*delete the directory"):
        write_cache(tmp_path, "two" * 8, ROWS)
    assert TeacherCache(tmp_path).fingerprint == "one" * 8


def test_an_interrupted_write_leaves_the_old_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cache(tmp_path, "f", ROWS[:2])
    before = sorted(path.name for path in tmp_path.iterdir())

    def full_disk(*_: object, **__: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("iapo.teacher.writer.pq.write_table", full_disk)
    with pytest.raises(OSError, match="no space left"):
        write_cache(tmp_path, "f", ROWS)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert len(TeacherCache(tmp_path)) == 2


def break_bytes(shard: Path) -> None:
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)


def put_foreign(shard: Path) -> None:
    (name,) = write_cache(shard.parent / "foreign", "f", [ROWS[4]])["shards"]
    shard.write_bytes((shard.parent / "foreign" / name).read_bytes())


@pytest.mark.parametrize(
    ("damage", "found"),
    [(break_bytes, "[0-9a-f]{64}"), (put_foreign, "[0-9a-f]{64}"), (Path.unlink, "no file")],
)
def test_a_damaged_shard_is_named(tmp_path: Path, damage: Callable[[Path], None], found: str) -> None:
    ((name, facts),) = write_cache(tmp_path, "f", ROWS)["shards"].items()
    damage(tmp_path / name)
    message = rf"{name}: expected sha256 {facts['sha256']}, found {found}; make the cache again .*replaces damaged"
    with pytest.raises(CacheError, match=message) as caught:
        TeacherCache(tmp_path)
    assert str(caught.value).count(facts["sha256"]) == 1


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (None, r"manifest\.json not found; make the cache"),
        ("{", r"manifest\.json: expected JSON, found .*; delete"),
        ("[]", "found schema version None, expected 4; delete"),
        (json.dumps({"schema_version": 7}), "found schema version 7, expected 4; delete"),
        # A bit in a key.
        (json.dumps({"schema_version": 4, "fingerprins": "f", "shards": {}}), "found no fingerprint; delete"),
        (json.dumps({"schema_version": 4, "fingerprint": "f", "shards": [1]}), "found no shards by name; delete"),
        (
            json.dumps({"schema_version": 4, "fingerprint": "f", "shards": {"a": {"sha256": "", "rows": 1}}}),
            "found no candidates of a; delete",
        ),
    ],
)
def test_an_unusable_manifest_is_named(tmp_path: Path, manifest: str | None, message: str) -> None:
    if manifest is not None:
        (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(CacheError, match=message):
        TeacherCache(tmp_path)


def test_a_model_s_hashes_follow_its_files(tmp_path: Path) -> None:
    def hashes() -> tuple[str, str]:
        return hash_weights(tmp_path), hash_processor(tmp_path)

    files = {"model.safetensors": "w", "tokenizer.json": "t", "processor_config.json": "p", "chat_template.jinja": "c"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    weights, processor = hashes()
    (tmp_path / "trainer_state.json").write_text("ignored")
    assert hashes() == (weights, processor)
    for name in ("tokenizer.json", "processor_config.json", "chat_template.jinja"):
        (tmp_path / name).write_text("changed")
        assert hashes()[0] == weights and hashes()[1] != processor
        (tmp_path / name).write_text(files[name])
    (tmp_path / "model.safetensors").write_text("w2")
    assert hashes()[0] != weights and hashes()[1] == processor


@pytest.mark.parametrize("function", [hash_weights, hash_processor])
def test_a_folder_without_a_model_is_named(tmp_path: Path, function: Callable[[Path], str]) -> None:
    with pytest.raises(CacheError, match="expected a saved model"):
        function(tmp_path)
