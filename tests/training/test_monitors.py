"""What the monitors call wrong, what they leave alone, and what they print while a run trains."""

import io
import subprocess
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import pytest

from iapo.config.schema import MonitorConfig
from iapo.training.monitors import OUTCOME, Monitor, Row, flags

CONFIG = MonitorConfig()
WINDOW = CONFIG.window
HEALTHY = {
    "reward": 0.5,
    OUTCOME: 0.5,
    "tools/call_rate": 0.8,
    "completions/clipped_ratio": 0.01,
    "advantage/flat_groups": 0.2,
}
COLLAPSED = {"tools/call_rate": 0.1}


def run(*parts: tuple[int, Mapping[str, float]]) -> list[Row]:
    """Steps of a run: how many, and what differs from a healthy one."""
    steps = [HEALTHY | dict(changed) for count, changed in parts for _ in range(count)]
    return [{"step": i, **figures} for i, figures in enumerate(steps, 1)]


def names(rows: Sequence[Row]) -> list[str]:
    return [flag.name for flag in flags(rows, CONFIG)]


@pytest.mark.parametrize(
    ("name", "first", "last", "shown"),
    [
        ("tool use collapsed", {}, {"tools/call_rate": 0.39}, ["39 %", "80 %", "min_calls 0.5"]),
        ("reward without accuracy", {}, {"reward": 0.8, OUTCOME: 0.44}, ["0.50 to 0.80", "0.50 to 0.44", "0.05"]),
        ("completions truncated", {}, {"completions/clipped_ratio": 0.21}, ["21 %", "max_truncated 0.2"]),
        ("verifier fails", {}, {"verifier/failures": 0.03, "verifier/asked": 50.0}, ["3 %", "0.02"]),
        ("prompts not in the cache", {}, {"cache/missing": 0.25}, ["25 %", "same processor"]),
        ("penalties not finite", {}, {"alignment/non_finite": 0.01}, ["1 %", "group's mean"]),
        ("groups all equal", {}, {"advantage/flat_groups": 0.81}, ["81 %", "max_flat_groups 0.8", "0.50"]),
    ],
)
def test_each_fault_is_flagged_with_its_figures(
    name: str, first: Mapping[str, float], last: Mapping[str, float], shown: list[str]
) -> None:
    (flag,) = flags(run((30, first), (WINDOW, last)), CONFIG)
    assert (flag.name, flag.step) == (name, 30 + WINDOW)
    assert [part for part in shown if part not in flag.message] == []


@pytest.mark.parametrize(
    ("first", "last"),
    [
        pytest.param({}, {}, id="healthy"),
        pytest.param({}, {"tools/call_rate": 0.41}, id="fewer calls, not half"),
        pytest.param({"tools/call_rate": 0.05}, {"tools/call_rate": 0.0}, id="hardly a call at the start"),
        pytest.param({}, {"reward": 0.8, OUTCOME: 0.46}, id="outcome fell less than the limit"),
        pytest.param({}, {"reward": 0.3, OUTCOME: 0.3}, id="worse, and the reward says so"),
        pytest.param({}, {"reward": 0.8, OUTCOME: 0.8}, id="better"),
        pytest.param({}, {"completions/clipped_ratio": 0.19}, id="some are cut"),
        pytest.param({}, {"verifier/failures": 0.019, "verifier/asked": 50.0}, id="a reply lost"),
        pytest.param({}, {"verifier/failures": 0.0, "verifier/asked": 0.0}, id="nothing to verify"),
        pytest.param({}, {"cache/missing": 0.0, "alignment/non_finite": 0.0}, id="every prompt cached and finite"),
        pytest.param({}, {"advantage/flat_groups": 0.79}, id="many flat groups"),
    ],
)
def test_what_is_below_a_limit_is_left_alone(first: Mapping[str, float], last: Mapping[str, float]) -> None:
    assert names(run((WINDOW, first), (20, {}), (WINDOW, last))) == []


def test_comparisons_need_two_windows_and_the_rest_one() -> None:
    cut = {"completions/clipped_ratio": 0.5}
    assert names(run((WINDOW - 1, cut))) == []
    assert names(run((WINDOW, cut))) == ["completions truncated"]
    assert names(run((WINDOW, {}), (WINDOW - 1, COLLAPSED))) == []
    assert names(run((WINDOW, {}), (WINDOW, COLLAPSED))) == ["tool use collapsed"]


@pytest.mark.parametrize("absent", [None, float("nan")], ids=["no column", "NaN"])
def test_figures_that_a_method_lacks_are_not_judged(absent: float | None) -> None:
    rows = run((30, {}), (WINDOW, {"reward": 0.9} | COLLAPSED))
    bare = [{"step": row["step"], "reward": row["reward"]} for row in rows]
    if absent is not None:
        bare = [dict.fromkeys([*HEALTHY, "verifier/failures"], absent) | row for row in bare]
    assert flags(bare, CONFIG) == []


def test_a_step_without_a_figure_does_not_silence_the_others() -> None:
    rows = run((WINDOW, {}), (WINDOW - 1, COLLAPSED), (1, {"tools/call_rate": float("nan")}))
    assert names(rows) == ["tool use collapsed"]


def test_verifier_failures_are_weighted_by_what_was_asked() -> None:
    busy, idle = {"verifier/failures": 0.0, "verifier/asked": 99.0}, {"verifier/failures": 1.0, "verifier/asked": 1.0}
    assert names(run((WINDOW - 1, busy), (1, idle))) == []
    assert names(run((WINDOW - 1, {"verifier/failures": 0.0}), (1, {"verifier/failures": 1.0}))) == ["verifier fails"]


@pytest.mark.parametrize(("outcome", "words"), [(0.97, "simply be solved"), (0.05, "not solved")])
def test_equal_groups_may_mean_solved_questions(outcome: float, words: str) -> None:
    (flag,) = flags(run((WINDOW, {"advantage/flat_groups": 0.95, OUTCOME: outcome, "reward": outcome})), CONFIG)
    assert words in flag.message


def noisy(rng: np.random.Generator, *, outcome: float, other: float, steps: int = 60) -> list[Row]:
    """A run whose outcome and other reward change this much in all, with the noise of mini's steps (.1)."""
    progress = np.linspace(0, 1, steps)
    outcomes = 0.5 + outcome * progress + rng.normal(0, 0.1, steps)
    rewards = outcomes + other * progress + rng.normal(0, 0.02, steps)
    return [{"step": i + 1, "reward": rewards[i], OUTCOME: outcomes[i]} for i in range(steps)]


def test_noise_is_seldom_called_hacking_and_hacking_seldom_noise() -> None:
    rng = np.random.default_rng(0)

    def share_flagged(outcome: float, other: float) -> float:
        runs = [noisy(rng, outcome=outcome, other=other) for _ in range(60)]
        return float(np.mean([any(names(rows[:n]) for n in range(2 * WINDOW, 61)) for rows in runs]))

    assert share_flagged(outcome=0.0, other=0.5) <= 0.1
    assert share_flagged(outcome=0.3, other=0.4) == 0
    assert share_flagged(outcome=-0.25, other=0.6) >= 0.9


def printed(monitored: Sequence[Row], earlier: Sequence[Row] = ()) -> list[str]:
    stream = io.StringIO()
    monitor = Monitor(CONFIG, "train iapo seed 1", earlier, stream=stream)
    for row in monitored:
        monitor.update(row)
    return stream.getvalue().splitlines()


COMES_AND_GOES = run((WINDOW, {}), (20, COLLAPSED), (40, {}), (20, COLLAPSED))


def test_one_line_when_a_flag_appears_and_one_when_it_is_gone() -> None:
    first, gone, again = printed(COMES_AND_GOES)
    assert first.startswith(
        "warning: train iapo seed 1: step 20: tool use collapsed: 10 % of rollouts call a tool, 80 %"
    )
    # From step 35 on enough of the last ten steps are healthy again; a window later the flag is gone.
    assert gone == "train iapo seed 1: step 44: no longer: tool use collapsed (10 steps without it)"
    assert again.startswith("warning: train iapo seed 1: step 76: tool use collapsed")


def test_a_flag_at_its_limit_does_not_fill_the_log() -> None:
    hovering = [(2, {"tools/call_rate": rate}) for _ in range(30) for rate in (0.05, 0.74)]
    rows = run((WINDOW, {}), *hovering)
    on = [bool(names(rows[:n])) for n in range(2 * WINDOW, len(rows) + 1)]
    assert sum(a != b for a, b in pairwise(on)) > 10
    assert len(printed(rows)) == 1


@pytest.mark.parametrize("killed", [5, 19, 20, 25, 40, 46, 80])
def test_a_resumed_run_prints_what_an_uninterrupted_one_does(killed: int) -> None:
    before, after = COMES_AND_GOES[:killed], COMES_AND_GOES[killed:]
    assert printed(before) + printed(after, earlier=before) == printed(COMES_AND_GOES)


def test_lines_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    monitor = Monitor(CONFIG, "train")
    for row in run((WINDOW, {"completions/clipped_ratio": 0.5})):
        monitor.update(row)
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("warning: train: step 10: completions truncated")


def test_no_torch_is_needed() -> None:
    code = "import sys, iapo.training.monitors; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
