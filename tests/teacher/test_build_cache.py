"""Which calls the teacher's pass samples."""

import weakref
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from iapo.config.schema import Config, TeacherConfig
from iapo.data.prompts import open_image, prompt_messages
from iapo.jobs import stages
from iapo.rollout.environment import tool_schemas
from iapo.teacher import build_cache, turns
from iapo.teacher.build_cache import TeacherPass
from iapo.teacher.cache import TeacherCache
from iapo.teacher.candidates import Candidate, Source
from iapo.teacher.writer import CacheWriter
from iapo.tools.drawing import apply
from iapo.tools.parsing import render_call
from iapo.types import Example, ToolCall

CONFIG = Config(profile="test", teacher=TeacherConfig(sampled_calls=2))


def test_samples_follow_the_prompts_and_the_seed_but_not_the_attribution(
    tmp_path: Path, tiny: tuple[Any, Any], test_examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[list[str]] = []

    # What an untrained teacher says holds no call: the turns themselves are compared.
    def listen(example: Example, texts: list[str], config: TeacherConfig) -> list[Candidate]:
        heard.append(texts)
        return []

    monkeypatch.setattr("iapo.teacher.turns.candidates", listen)

    def samples(name: str, config: Config, examples: list[Example]) -> list[list[str]]:
        heard.clear()
        TeacherPass(*tiny, config, CacheWriter(tmp_path / name, name)).run(examples)
        return list(heard)

    finer = replace(CONFIG, attribution=replace(CONFIG.attribution, n_steps=16))
    luckier = replace(CONFIG, teacher=replace(CONFIG.teacher, train_seed=CONFIG.teacher.train_seed + 1))
    usual = samples("usual", CONFIG, test_examples[:3])
    assert samples("finer", finer, test_examples[:3]) == usual
    assert samples("luckier", luckier, test_examples[:3]) != usual
    # The greedy turn comes first and is no sample.
    assert [texts[0] for texts in samples("again", luckier, test_examples[:3])] == [texts[0] for texts in usual]


@pytest.mark.parametrize(
    ("lengths", "found"),
    [
        ([10] * 5, [[0, 1, 2], [3, 4]]),
        ([40, 40, 60, 10], [[0, 1], [2], [3]]),
        ([200, 10, 10], [[0], [1, 2]]),
        ([10, 50, 10], [[0, 1], [2]]),
        ([], []),
    ],
)
def test_prompts_are_read_together_within_a_number_and_their_padded_tokens(
    monkeypatch: pytest.MonkeyPatch, lengths: list[int], found: list[list[int]]
) -> None:
    monkeypatch.setattr(turns, "PROMPTS_TOGETHER", 3)
    monkeypatch.setattr(turns, "TOKENS_TOGETHER", 100)
    prompts: Any = [SimpleNamespace(input_ids=[0] * length) for length in lengths]
    assert list(turns._within_tokens(prompts)) == found


def test_the_estimate_counts_as_many_as_are_read_together() -> None:
    assert (stages._PROMPTS_TOGETHER, stages._TOKENS_TOGETHER, stages._PROMPTS_OF_ENGINE) == (
        turns.PROMPTS_TOGETHER,
        turns.TOKENS_TOGETHER,
        turns._PROMPTS_OF_ENGINE,
    )


def test_no_more_figures_are_held_than_are_scored_together(
    tmp_path: Path, tiny: tuple[Any, Any], test_examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_cache, "PROMPTS_TOGETHER", 2)
    held: list[weakref.ref[Any]] = []
    most = 0
    encode = turns.encode_prompt

    def watched(*arguments: Any) -> Any:
        nonlocal most
        encoded = encode(*arguments)
        held.append(weakref.ref(encoded))
        most = max(most, sum(each() is not None for each in held))
        return encoded

    monkeypatch.setattr(turns, "encode_prompt", watched)
    teacher = TeacherPass(*tiny, CONFIG, CacheWriter(tmp_path, "f"))
    some = test_examples[:8]
    teacher.run(some)
    keys = teacher.keys(some)
    teacher.drop_other_students(some, {})
    teacher.fill(
        some, {key: [ToolCall("focus_on_rows_with_mask", ("x",))] for key in keys.values()}, TeacherCache(tmp_path)
    )
    # One chunk, the one before it until it is replaced, and the prompt at hand.
    assert len(set(keys.values())) == 8 and most <= 5


def test_the_cache_keeps_what_the_teacher_says_after_its_own_calls(
    tmp_path: Path, trained_looking: Any, tiny: tuple[Any, Any], test_examples: list[Example],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    processor = tiny[1]
    example = next(each for each in test_examples if each.test_set == "vwtq")
    first, second = list(example.figure.boxes["rows"])[:2]
    made: list[tuple[str, str, Source]] = [
        ("focus_on_rows_with_mask", first, "sampled"),
        ("focus_on_rows_with_draw", second, "sampled"),
        ("focus_on_rows_with_mask", "no such row", "sampled"),
        ("focus_on_rows_with_mask", second, "enumerated"),
    ]
    calls = [Candidate(call := ToolCall(name, (label,)), render_call(call), source) for name, label, source in made]
    monkeypatch.setattr("iapo.teacher.turns.candidates", lambda *_: calls)
    TeacherPass(trained_looking, processor, CONFIG, CacheWriter(tmp_path, "f")).run([example])
    rows = {row.rank: row for row in TeacherCache(tmp_path).rows}
    for rank, candidate in enumerate(calls[:2]):
        edited = apply(open_image(example), example.figure, [candidate.call]).image
        tool = {"role": "tool", "name": candidate.call.name, "content": [{"type": "image", "image": edited}]}
        inputs = processor.apply_chat_template(
            [[*prompt_messages(example), {"role": "assistant", "content": candidate.text}, tool]],
            tools=list(tool_schemas(example.figure.kind)), add_generation_prompt=True, tokenize=True, return_dict=True,
            return_tensors="pt",
        )  # fmt: skip
        said = trained_looking.generate(**inputs, max_new_tokens=CONFIG.evaluation.turn_tokens, do_sample=False)
        text = processor.tokenizer.decode(said[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        assert rows[rank].answer_text == text and text
    assert rows[2].answer_text is None and rows[3].answer_text is None
