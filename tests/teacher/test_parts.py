"""A cache that several jobs make is the one that a single job makes."""

import json
import runpy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from iapo.alignment.penalty import penalties_of_calls
from iapo.artifacts.code_digest import ROOT
from iapo.artifacts.files import write_json
from iapo.config.declared import declare
from iapo.config.schema import AlignmentConfig, AttributionConfig, Config, EvaluationConfig, TeacherConfig, TrainConfig
from iapo.data.selection import training_prompts
from iapo.data.store import read_split
from iapo.rollout.call_sampling import SampledCall, read_calls, write_calls
from iapo.teacher import build_cache, parts
from iapo.teacher.build_cache import TeacherPass
from iapo.teacher.cache import TeacherCache, cache_stats
from iapo.teacher.parts import begin_from_joined, join_caches, prompts_of_part, write_part
from iapo.teacher.rows import CacheError
from iapo.teacher.turns import TurnWriter
from iapo.teacher.writer import CacheWriter
from iapo.tools.parsing import render_call
from iapo.types import Example, ToolCall

SETS = ("vwtq", "vwtq_syn")
CONFIG = Config(
    profile="test",
    teacher=TeacherConfig(sampled_calls=2),
    attribution=AttributionConfig(n_steps=2),
    evaluation=EvaluationConfig(turn_tokens=2),
)


@pytest.fixture(autouse=True)
def _two_prompts_together(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (build_cache, parts):
        monkeypatch.setattr(module, "PROMPTS_TOGETHER", 2)


@pytest.fixture(autouse=True)
def _a_teacher_that_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls drawn as tokens are: what a prompt gets depends on the seed and on the prompts before it in its batch."""

    def turns(self: TurnWriter, chunk: Sequence[Any], sampling: Any) -> list[str]:
        return [render_call(some_call(prompt.example, int(torch.randint(99, ())))) for prompt in chunk]

    monkeypatch.setattr(TurnWriter, "_write", turns)


def some_call(example: Example, number: int) -> ToolCall:
    labels = list(example.figure.boxes["rows"])
    return ToolCall("focus_on_rows_with_mask", (labels[number % len(labels)],))


@pytest.fixture
def prompts(test_examples: list[Example]) -> list[Example]:
    # The last batch has one prompt.
    found = training_prompts([example for example in test_examples if example.test_set in SETS], 4)[:7]
    assert len(found) == 7
    return found


@pytest.fixture
def calls(prompts: list[Example]) -> list[SampledCall]:
    asked = [ToolCall("focus_on_columns_with_draw", (next(iter(each.figure.boxes["columns"])),)) for each in prompts]
    return [
        SampledCall(prompt.example_id, 0, render_call(call), False) for prompt, call in zip(prompts, asked, strict=True)
    ]


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Calls that were attributed, batch by batch."""
    counted: list[int] = []
    score = build_cache.score_turns

    def counting(model: Any, tokenizer: Any, turns: Sequence[Any], *rest: Any) -> Any:
        counted.append(len(turns))
        return score(model, tokenizer, turns, *rest)

    monkeypatch.setattr(build_cache, "score_turns", counting)
    return counted


def make(cache: Path, teacher: tuple[Any, Any], data: Path) -> None:
    """What the job does with a folder of data."""
    examples = training_prompts(read_split(data, "train", SETS), 4)
    made = read_calls(data / "calls.parquet")
    teacher_pass = TeacherPass(*teacher, CONFIG, CacheWriter(cache, "f"))
    teacher_pass.run(examples)
    keys = teacher_pass.keys(examples)
    asked = {keys[name]: each for name, each in made.items()}
    teacher_pass.drop_other_students(examples, asked)
    teacher_pass.fill(examples, asked, TeacherCache(cache))


def make_parts(folder: Path, count: int, teacher: Any, prompts: list[Example], calls: list[SampledCall]) -> Path:
    """Make and join the caches of some parts; return the joined one."""
    joined = folder / "joined"
    made = []
    for part in range(count):
        data, cache = folder / f"{part}of{count}_prompts", folder / f"{part}of{count}"
        write_part(data, prompts_of_part(prompts, part, count), SETS, calls, {})
        begin_from_joined(joined, cache)
        make(cache, teacher, data)
        made.append(cache)
    join_caches(made, joined)
    return joined


def table(cache: TeacherCache) -> dict[tuple[str, ToolCall], tuple[Any, ...]]:
    return {
        (row.prompt_key, row.call): (row.source, row.rank, row.correct, row.call_text, row.answer_text)
        for row in cache.rows
    }


def penalties(cache: TeacherCache, asked: list[tuple[str, ToolCall]]) -> list[float]:
    """What a student is charged whose calls have the same share of every block."""
    hits = [cache.lookup(*each) for each in asked]
    return penalties_of_calls([[1.0] * 4 for _ in asked], [hit and list(hit.signed) for hit in hits], AlignmentConfig())


def test_three_parts_make_the_cache_of_one(
    tmp_path: Path, tiny: Any, trained_looking: Any, prompts: list[Example], calls: list[SampledCall]
) -> None:
    teacher = (trained_looking, tiny[1])
    one, three = (TeacherCache(make_parts(tmp_path / f"{n}", n, teacher, prompts, calls)) for n in (1, 3))
    assert {row.source for row in one.rows} == {"sampled", "enumerated", "filled"}
    assert table(three) == table(one) and three.fingerprint == one.fingerprint
    # The same files of the same rows in the same order; those of the teacher's own calls to the byte.
    shards = [{name: {**each, "sha256": ""} for name, each in cache.shards.items()} for cache in (one, three)]
    assert list(shards[1].items()) == list(shards[0].items())
    for name, shard in one.shards.items():
        assert shard["candidates"] == "filled" or three.shards[name] == shard
    asked = [*table(one), *((key, ToolCall("focus_on_rows_with_draw", ("no such row",))) for key in one.prompts)]
    assert penalties(three, asked) == pytest.approx(penalties(one, asked), abs=1e-5)
    assert len({round(value, 4) for value in penalties(one, asked)}) > 3


def test_one_part_is_what_one_job_makes(
    tmp_path: Path, tiny: Any, prompts: list[Example], calls: list[SampledCall]
) -> None:
    joined = make_parts(tmp_path, 1, tiny, prompts, calls)
    assert (joined / "manifest.json").read_bytes() == (tmp_path / "0of1/manifest.json").read_bytes()


def test_another_number_of_parts_scores_nothing_again(
    tmp_path: Path, tiny: Any, prompts: list[Example], calls: list[SampledCall], scored: list[int]
) -> None:
    before = cache_stats(make_parts(tmp_path, 2, tiny, prompts, calls))
    assert sum(scored) == before["rows"]
    scored.clear()
    assert cache_stats(make_parts(tmp_path, 3, tiny, prompts, calls)) == before and scored == []


def test_more_parts_than_batches_leave_some_without_prompts(
    tmp_path: Path, tiny: Any, prompts: list[Example], calls: list[SampledCall]
) -> None:
    assert prompts_of_part(prompts, 4, 5) == []
    assert cache_stats(make_parts(tmp_path, 5, tiny, prompts, calls))["prompts"] == len(prompts)


def test_a_part_of_another_teacher_is_refused(tmp_path: Path) -> None:
    for name in ("one", "two"):
        CacheWriter(tmp_path / name, name)
    with pytest.raises(CacheError, match=r"two holds fingerprint two.*, .*one holds one"):
        join_caches([tmp_path / "one", tmp_path / "two"], tmp_path / "joined")
    assert not (tmp_path / "joined").exists()


def test_a_damaged_cache_is_not_taken_over(tmp_path: Path, tiny: Any, prompts: list[Example]) -> None:
    joined = make_parts(tmp_path, 1, tiny, prompts, [])
    next(joined.glob("*.parquet")).write_bytes(b"broken")
    begin_from_joined(joined, tmp_path / "part")
    assert not (tmp_path / "part").exists()
    begin_from_joined(tmp_path / "nowhere", tmp_path / "part")
    assert not (tmp_path / "part").exists()


def test_a_part_has_the_calls_on_its_own_prompts(
    tmp_path: Path, prompts: list[Example], calls: list[SampledCall]
) -> None:
    own = prompts_of_part(prompts, 1, 3)
    write_part(tmp_path, own, SETS, calls, {"seed": 3})
    assert read_split(tmp_path, "train", SETS) == own == prompts[2:4]
    assert set(read_calls(tmp_path / "calls.parquet")) == {prompt.example_id for prompt in own}
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["settings"] == {"seed": 3} and sum(manifest["counts"]["train"].values()) == len(own)


class Named(dict):
    """Files or params by name, as Snakemake hands them to a script; iterates over the files."""

    __getattr__ = dict.__getitem__

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter([path for each in self.values() for path in ([each] if isinstance(each, str) else each)])


def run_script(name: str, log: Path, inputs: dict[str, Any], outputs: dict[str, Path], **params: Any) -> None:
    job = SimpleNamespace(
        input=Named(inputs),
        output=Named({name: str(path) for name, path in outputs.items()}),
        params=SimpleNamespace(**params, items=params.items, get=params.get),
        log=[str(log)],
        config={"profile": "test"},
        resources={},
        rule=name,
        threads=1,
    )
    runpy.run_path(str(ROOT / f"workflow/scripts/{name}.py"), init_globals={"snakemake": job})


def test_the_jobs_cut_and_join(tmp_path: Path, data_root: Path, tiny: Any, calls: list[SampledCall]) -> None:
    config = Config(profile="test", train=TrainConfig(prompts_per_set=3, sets=SETS))
    whole = training_prompts(read_split(data_root, "train", SETS), 3)
    own = [SampledCall(prompt.example_id, 0, call.text, True) for prompt, call in zip(whole, calls, strict=False)]
    for name, made in (("a", own[:2]), ("b", own[1:])):
        write_calls(tmp_path / f"{name}.parquet", made)
    caches = [tmp_path / f"cache/main_part{part}of2" for part in (0, 1)]
    for part, cache in enumerate(caches):
        folder = cache.with_name(f"{cache.name}_prompts")
        run_script(
            "cut_prompts",
            tmp_path / f"{part}.log",
            {
                "manifest": str(data_root / "manifest.json"),
                "calls": [str(tmp_path / f"{name}.parquet") for name in "ab"],
            },
            {
                "manifest": folder / "manifest.json",
                "calls": folder / "calls.parquet",
                "record": folder.with_name(f"{folder.name}.run.json"),
            },
            settings=declare(config, "train.prompts_per_set", "train.sets"),
            part=part,
            parts=2,
            cache_dir=str(cache),
            joined_dir=str(tmp_path / "cache/main"),
            code="",
        )
        cut = read_split(folder, "train", SETS)
        assert cut == prompts_of_part(whole, part, 2)
        asked = {call.example_id for call in own} & {prompt.example_id for prompt in cut}
        assert set(read_calls(folder / "calls.parquet")) == asked
        recorded = json.loads(folder.with_name(f"{folder.name}.run.json").read_text())["outputs"]
        assert {f"{folder.name}/{name}" for name in ("manifest.json", "calls.parquet", "train/vwtq.parquet")} <= {
            *recorded
        }
        make(cache, tiny, folder)
        write_json(cache.with_name(f"{cache.name}.stats.json"), cache_stats(cache))
    joined = tmp_path / "cache/main"
    run_script(
        "join_cache",
        tmp_path / "join.log",
        {"parts": [str(cache.with_name(f"{cache.name}.stats.json")) for cache in caches]},
        {"stats": joined.with_name("main.stats.json"), "record": joined.with_name("main.run.json")},
        code="",
    )
    stats = json.loads(joined.with_name("main.stats.json").read_text())
    assert stats["prompts"] == len(whole) and stats["rows"] == sum(len(TeacherCache(cache)) for cache in caches)
    record = json.loads(joined.with_name("main.run.json").read_text())
    assert "main/manifest.json" in record["outputs"] and record["facts"]["rows"] == stats["rows"]


def test_a_fill_computes_its_own_damaged_shard_again_and_copies_the_original_s(
    tmp_path: Path, tiny: Any, trained_looking: Any, prompts: list[Example], calls: list[SampledCall]
) -> None:
    teacher = (trained_looking, tiny[1])
    cache, filled = make_parts(tmp_path, 1, teacher, prompts, calls), tmp_path / "filled"
    key = TeacherCache(cache).prompts[0]
    missed = {key: [ToolCall("focus_on_columns_with_mask", ("no such column",))]}

    def fill() -> int:
        return build_cache.fill_copy(cache, filled, teacher, prompts, missed, CONFIG)

    assert fill() == 1
    whole, original = table(TeacherCache(filled)), TeacherCache(cache).shards
    (added,) = set(TeacherCache(filled).shards) - set(original)
    for name, again in ((added, 1), (next(iter(original)), 1), ("none", 0)):
        (filled / name).write_bytes(b"damaged")
        assert fill() == again and table(TeacherCache(filled)) == whole


def test_the_calls_of_earlier_students_leave_no_trace(
    tmp_path: Path, tiny: Any, trained_looking: Any, prompts: list[Example], calls: list[SampledCall]
) -> None:
    teacher, cache = (trained_looking, tiny[1]), tmp_path / "cache"
    other = [ToolCall("focus_on_columns_with_mask", (next(iter(each.figure.boxes["columns"])),)) for each in prompts]
    now = [replace(call, text=render_call(made)) for call, made in zip(calls, other, strict=True)]
    for name, sampled in (("before", calls), ("now", now)):
        write_part(tmp_path / name, prompts, SETS, sampled, {})
    for data in ("before", "now"):
        make(cache, teacher, tmp_path / data)
    make(tmp_path / "fresh", teacher, tmp_path / "now")
    files = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in (cache, tmp_path / "fresh")]
    assert files[0] == files[1]
