"""Which calls the teacher's pass samples."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from iapo.config.schema import Config, TeacherConfig
from iapo.teacher.build_cache import TeacherPass
from iapo.teacher.candidates import Candidate
from iapo.teacher.writer import CacheWriter
from iapo.types import Example

CONFIG = Config(profile="test", teacher=TeacherConfig(sampled_calls=2))


def test_samples_follow_the_prompts_and_the_seed_but_not_the_attribution(
    tmp_path: Path, tiny: tuple[Any, Any], test_examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[list[str]] = []

    # What an untrained teacher says holds no call: the turns themselves are compared.
    def listen(example: Example, texts: list[str], config: TeacherConfig) -> list[Candidate]:
        heard.append(texts)
        return []

    monkeypatch.setattr("iapo.teacher.build_cache.candidates", listen)

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
