"""Several cold starts and teachers among the seeds, and habits that a variant starts with."""

from typing import Any

import pytest

from iapo.config.declared import declare, declared_config
from iapo.config.schema import Config, ConfigError, load_config

HABITS = {"rare": {"demonstrations": {"right_label_rate": 0.005}}, "unused": {"demonstrations": {}}}
STARTS = {"student": {"cold_starts": 4}, "teacher": {"cold_starts": 2}}


def config(**sections: Any) -> Config:
    return load_config({"profile": "x", "methods": ["vtool_r1"], **sections})


def test_seeds_go_round_the_starts_in_their_order() -> None:
    found = config(seeds=[7, 3, 5, 9, 1], **STARTS)
    assert found.start_of == {7: 0, 3: 1, 5: 2, 9: 3, 1: 0}
    assert found.teacher_of == {7: 0, 3: 1, 5: 0, 9: 1, 1: 0}


def test_a_start_always_has_the_same_teacher() -> None:
    found = config(seeds=list(range(12)), **STARTS)
    pairs = {(found.start_of[seed], found.teacher_of[seed]) for seed in found.seeds}
    assert len(pairs) == 4


def test_starts_are_rows_and_only_those_that_a_seed_trains_from() -> None:
    found = config(seeds=[0, 1, 2], **STARTS)
    assert found.reference_starts == {"untrained": [0, 1, 2], "teacher_untrained": [0, 1], "teacher": [0, 1]}
    assert found.evaluated_runs[:4] == [("untrained", 0), ("untrained", 1), ("untrained", 2), ("teacher_untrained", 0)]
    single = config(seeds=[0, 1, 2])
    assert set(map(tuple, single.reference_starts.values())) == {(0,)} and set(single.start_of.values()) == {0}


def test_every_teacher_with_a_cache_is_asked_and_more_seeds_where_there_is_one_cold_start() -> None:
    audit = {"teacher_seeds": [0, 1, 2]}
    assert config(audit=audit).asked_teachers == {0: 0, 1: 0, 2: 0}
    student, teacher = {"cold_starts": 4}, {"cold_starts": 2, "train_seed": 5}
    several = config(audit=audit, seeds=[0, 1, 2, 3], student=student, teacher=teacher)
    assert several.asked_teachers == several.cached_teachers == {5: 0, 6: 1}


def test_a_habit_is_a_row_where_a_method_of_the_run_starts_with_it() -> None:
    variants = {"sparse": {"method": "iapo", "start": "rare"}, "left_out": {"method": "iapo", "start": "unused"}}
    found = config(student={"cold_starts": 2, "habits": HABITS}, variants=variants, methods=["vtool_r1", "sparse"])
    assert found.habits_used == ["rare"] and found.reference_starts["untrained_rare"] == [0, 1]
    assert found.start_rows == {"vtool_r1": "untrained", "sparse": "untrained_rare"}


def test_a_job_that_lists_the_rows_must_declare_what_they_follow_from() -> None:
    found = config(**STARTS)
    keys = ["seeds", "methods", "variants", "released", "evaluation.api_model", "student.first_stage"]
    keys += ["grids", "student.cold_starts", "teacher.cold_starts", "teacher.trained"]
    assert declared_config(declare(found, *keys), found).evaluated_runs == found.evaluated_runs


SOURCE = {"source": {"repo": "owner/name", "revision": "0" * 40}}
PRETRAINED = {"model": {"pretrained": SOURCE}}


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"student": {"cold_starts": 4}, "teacher": {"cold_starts": 3}}, "teacher.cold_starts: found 3 for 4"),
        ({"teacher": {"cold_starts": 2}}, "teacher.cold_starts: found 2 for 1"),
        ({"student": {"cold_starts": 2, **PRETRAINED}}, "student.cold_starts: found 2 with a pretrained model"),
        ({"teacher": {"trained": False}}, "teacher.trained: found false with a tiny model"),
        ({"student": {"habits": HABITS, **PRETRAINED}}, "student.habits: found them with a pretrained model"),
        ({"student": {"habits": HABITS, "first_stage": {}}}, "student.habits: found them with a pretrained model"),
        ({"student": {"habits": {"cold": HABITS["rare"]}}}, "student.habits.cold: found the name of a start"),
        ({"student": {"habits": {"Rare": HABITS["rare"]}}}, "student.habits.Rare"),
        ({"variants": {"x": {"method": "iapo", "start": "rrae"}}}, "variants.x.start: found 'rrae'"),
        ({"student": {"habits": {"rare": {"demonstrations": {"right": 1}}}}}, "demonstrations.right: unknown key"),
    ],
)
def test_starts_that_cannot_be_are_refused(sections: dict, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        config(**sections)
    assert says in str(error.value)


def test_a_teacher_off_the_shelf_has_one_row_and_is_asked_once() -> None:
    teacher = {"trained": False, **PRETRAINED}
    found = config(student=PRETRAINED, teacher=teacher, data={"refocus": SOURCE}, device="cuda")
    assert "teacher" in found.reference_policies and "teacher_untrained" not in found.reference_policies
    assert found.asked_teachers == found.cached_teachers == {0: 0}
