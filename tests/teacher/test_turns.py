"""Turns that an engine writes in a process of its own are those of the model that is attributed."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from iapo.config.schema import Config, EvaluationConfig, TeacherConfig, TrainConfig
from iapo.data.selection import training_prompts
from iapo.data.store import read_split
from iapo.models.loading import save_model
from iapo.teacher import turns
from iapo.teacher.build_cache import TeacherPass
from iapo.teacher.cache import TeacherCache
from iapo.teacher.turns import Prompt, TurnJob, TurnWriter, turn_job, written_by_engine
from iapo.teacher.writer import CacheWriter
from iapo.types import Example

# Few enough that both ways take them in one chunk, by whose first prompt the samples are seeded.
CONFIG = Config(
    profile="test",
    train=TrainConfig(sets=("h_bar", "vwtq"), prompts_per_set=3),
    teacher=TeacherConfig(sampled_calls=2),
    evaluation=EvaluationConfig(turn_tokens=16),
)


@pytest.fixture(scope="module")
def examples(data_root: Path) -> list[Example]:
    return training_prompts(read_split(data_root, "train", CONFIG.train.sets), CONFIG.train.prompts_per_set)


@pytest.fixture(scope="module")
def teacher(examples: list[Example], tiny: tuple[Any, Any], teach: Callable[..., None]) -> tuple[Any, Any]:
    """A model that has learned one call for each prompt by heart."""
    model, processor = copy.deepcopy(tiny[0]).train(), tiny[1]
    teach(model, processor, examples, 40)
    return model.eval(), processor


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, teacher: tuple[Any, Any], data_root: Path) -> TurnJob:
    """Its process is transformers'; vLLM takes the same road (tests/rollout/vllm/test_real.py)."""
    folder = tmp_path_factory.mktemp("teacher") / "model"
    save_model(*teacher, folder)
    return turn_job(folder, data_root, CONFIG, made_from="these")


def test_the_cache_is_the_same_whoever_writes(
    job: TurnJob, teacher: tuple[Any, Any], examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {}
    for name, choose in {"here": None, "apart": written_by_engine(job, tmp_path / "turns")}.items():
        TeacherPass(*teacher, CONFIG, CacheWriter(tmp_path / name, "f"), choose).run(examples)
        rows[name] = TeacherCache(tmp_path / name).rows
    # As text, in which a figure that no method gives equals itself.
    assert list(map(repr, rows["here"])) == list(map(repr, rows["apart"]))
    assert len(rows["here"]) > len(examples) and any(row.answer_text for row in rows["here"])
    launched: list[Path] = []
    monkeypatch.setattr(turns, "launch_alone", lambda _, description: launched.append(description))
    # A pass that was killed behind its turns reads them again; others' are not taken for them.
    choose = written_by_engine(job, tmp_path / "turns")
    chunk = [Prompt(example, teacher[1]) for example in examples[:2]]
    assert [bool(calls) for calls in choose(chunk)] and not launched
    with pytest.raises(FileNotFoundError):
        written_by_engine(replace(job, made_from="others"), tmp_path / "turns")
    assert len(launched) == 1


def test_a_job_samples_as_the_teacher_s_settings_say(job: TurnJob) -> None:
    assert job.settings.train_seed == CONFIG.teacher.train_seed
    luckier = replace(CONFIG, teacher=replace(CONFIG.teacher, enumerated="all", sampled_calls=7))
    found = turn_job(job.teacher, job.data, luckier, "these").settings
    assert (found.enumerated, found.sampled_calls) == ("all", 7)


def test_an_engine_is_given_all_prompts_at_once(tiny: tuple[Any, Any], test_examples: Any) -> None:
    class Counting:
        """As an engine, whose turns hold no call."""

        def __init__(self) -> None:
            self.asked: list[int] = []

        def write_turns(self, processor: Any, prompts: Any, **_: Any) -> list[list[int]]:
            self.asked.append(len(prompts))
            return [[processor.tokenizer.eos_token_id]] * len(prompts)

    engine = Counting()
    chunk = [Prompt(example, tiny[1]) for example in test_examples[:20]]
    found = TurnWriter(engine, tiny[1], CONFIG.teacher, 16).candidates(chunk)
    assert found == [[]] * 20 and engine.asked == [20] * 3
