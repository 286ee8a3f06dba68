"""The words of a run's lines, and what it makes of the time that jobs took."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from iapo.jobs.run_lines import in_words, times
from iapo.jobs.time_left import Pace, earlier_pace, seconds_left


@pytest.mark.parametrize(
    ("rule", "wildcards", "words"),
    [
        ("train_policy_0_1", {"method": "trm"}, "trained trm, seeds 0 and 1"),
        ("train_policy_2", {"method": "trm"}, "trained trm, seed 2"),
        ("evaluate_policy_0_1_2", {"method": "iapo"}, "evaluated iapo, seeds 0, 1 and 2"),
        ("evaluate_policy_off_the_shelf_0_1", {"method": "teacher"}, "evaluated teacher, starts 0 and 1"),
        ("train_teacher", {"start": "1", "seed": "3"}, "trained teacher 1, seed 3"),
        ("measure_condition_iapo_half_2", {}, "measured a condition's policies (iapo_half_2)"),
        ("cache_teacher", {"start": "0", "cache": "main"}, "cached the attributions of teacher 0 (main)"),
        (
            "cache_teacher",
            {"start": "0", "cache": "main", "part": "2"},
            "cached the attributions of teacher 0 (main), part 2",
        ),
        ("make_tables", {}, "made tables and figures"),
        ("another", {}, "ran another"),
    ],
)
def test_a_job_is_told_in_plain_words(rule: str, wildcards: dict[str, str], words: str) -> None:
    assert in_words(rule, wildcards, done=True) == words


def test_what_failed_is_told_as_a_deed_not_done() -> None:
    assert in_words("train_policy_0", {"method": "trm"}, done=False) == "train trm, seed 0"


@pytest.mark.parametrize(
    ("so_far", "left", "whole", "text"),
    [
        (18 * 60, 9 * 60, True, "18 min so far, about 9 left"),
        (50, 600, True, "50 s so far, about 10 min left"),
        (18 * 60, 9 * 60, False, "18 min so far, at least 9 left"),
        (2 * 3600, 5400, True, "2 h so far, about 90 min left"),
        (9000, 12600, True, "2.5 h so far, about 3.5 left"),
        (0.2, None, False, "1 s so far"),
    ],
)
def test_times(so_far: float, left: float | None, whole: bool, text: str) -> None:
    assert times(so_far, left, whole) == text


@pytest.mark.parametrize(
    ("left", "running", "at_once", "seconds", "whole"),
    [
        pytest.param({"a": 4, "b": 2}, [], 1, 60, True, id="one after the other"),
        pytest.param({"a": 4, "b": 2}, [], 2, 30, True, id="two at once"),
        pytest.param({"a": 4, "b": 2}, [("a", 4.0), ("b", 30.0)], 2, 23, True, id="what runs is begun, and no less"),
        pytest.param({"a": 1, "b": 1}, [], 8, 10, True, id="no job is split"),
        pytest.param({"a": 1, "c": 3}, [("c", 5.0)], 1, 10, False, id="one kind is not known"),
        pytest.param({"c": 3}, [], 1, None, False, id="none is"),
        pytest.param({"a": 0, "c": 0}, [], 1, None, False, id="nothing is left"),
    ],
)
def test_time_left(
    left: dict[str, int], running: Sequence[tuple[str, float]], at_once: float, seconds: float | None, whole: bool
) -> None:
    pace = Pace({"a": 10.0, "b": 10.0}, at_once)
    assert seconds_left(left, running, pace) == (seconds, whole)


def _record(path: Path, rule: str, started: int, seconds: float, outputs: list[str]) -> None:
    plan = {"rule": rule, "outputs": outputs}
    started_at = f"2026-01-01T00:{started:02}:00+00:00"
    path.write_text(json.dumps({"started": started_at, "wall_seconds": seconds, "plan": plan}))


def test_earlier_runs_are_read_from_their_records(tmp_path: Path) -> None:
    # One job of two seeds, 60 s each; beside it one of 120 s. An hour later nothing ran, which is no pace.
    _record(tmp_path / "a0.run.json", "train_policy_0_1", 0, 60, ["a0", "a1"])
    _record(tmp_path / "a1.run.json", "train_policy_0_1", 1, 60, ["a0", "a1"])
    _record(tmp_path / "b.run.json", "train_policy_2", 0, 120, ["b"])
    _record(tmp_path / "c.run.json", "make_tables", 50, 20, ["c"])
    (tmp_path / "broken.run.json").write_text("{")
    (tmp_path / "old.run.json").write_text('{"wall_seconds": 3}')
    pace = earlier_pace(tmp_path)
    assert pace.seconds == {"train_policy": 120, "make_tables": 20}
    assert pace.side_by_side == pytest.approx(260 / 140)


def test_a_folder_without_records_has_no_pace(tmp_path: Path) -> None:
    assert earlier_pace(tmp_path / "none").seconds == {}
