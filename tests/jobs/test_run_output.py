"""What a run prints as its jobs start, go on, end and fail."""

import logging
import os
from pathlib import Path

import pytest

from iapo.artifacts.code_digest import ROOT
from iapo.artifacts.progress import Progress, is_step_line
from iapo.hub.files import HubError
from iapo.jobs.job_log import JobLog, OwnWarnings, error_text, why_failed
from iapo.jobs.launch import launch_alone
from iapo.jobs.run_output import RunOutput, own_words

STEP = "train trm: step 3/9, 2 s each, 12 s left, reward 0.5"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Run:
    """Two trainings and a table, on a clock of our own."""

    def __init__(self, results: Path) -> None:
        self.clock, self.results = Clock(), results
        self.output = RunOutput(self.clock)
        self.output.planned({"train_policy_0": 2, "make_tables": 1, "total": 3})

    def log(self, name: str) -> Path:
        path = self.results / f"logs/{name}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def wrote(self, name: str, *lines: str) -> None:
        with self.log(name).open("a") as file:
            file.write("".join(f"{line}\n" for line in lines))
        os.utime(file.name, (self.clock.now, self.clock.now))

    def start(self, job: int, name: str) -> list[str]:
        return self.output.started(job, "train_policy_0", {"method": name}, self.log(name))

    def after(self, seconds: float) -> RunOutput:
        self.clock.now += seconds
        return self.output


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "results/mini")


def test_a_run_says_where_it_is(run: Run) -> None:
    assert run.start(1, "trm") == [f"3 jobs; each one's own output is in {run.results}/logs"]
    assert run.start(2, "iapo") == []
    assert run.after(120).finished(1) == ["[1/3] trained trm, seed 0 · 2 min so far, at least 1 s left"]
    assert run.after(60).finished(2) == ["[2/3] trained iapo, seed 0 · 3 min so far"]
    run.output.started(3, "make_tables", {}, run.log("make_tables"))
    assert run.after(30).finished(3) == ["[3/3] made tables and figures · 4 min"]
    assert run.output.closed() == ["Done: 3 jobs in 4 min."]


def test_a_run_says_before_it_starts_what_earlier_ones_know(run: Run) -> None:
    run.results.mkdir(parents=True)
    for name, rule in (("a", "train_policy_0"), ("b", "make_tables")):
        (run.results / f"{name}.run.json").write_text(
            f'{{"started": "2026-01-01T00:00:00+00:00", "wall_seconds": 600, '
            f'"plan": {{"rule": "{rule}", "outputs": ["{name}"]}}}}'
        )
    (line,) = run.start(1, "trm")
    assert line.startswith("3 jobs, about 15 min by earlier runs; ")
    # Its own measure counts as soon as there is one.
    assert run.after(60).finished(1) == ["[1/3] trained trm, seed 0 · 1 min so far, about 11 left"]


def test_steps_are_shown_of_long_jobs_and_ever_more_rarely(run: Run) -> None:
    run.start(1, "trm")
    shown = {}
    for second in range(5, 1800, 5):
        run.wrote("trm", STEP)
        if lines := run.after(5).looked():
            shown[second] = lines
    assert list(shown) == [60, 120, 240, 480, 960]
    assert set(map(tuple, shown.values())) == {(f"    {STEP}",)}


def test_the_last_step_of_a_part_is_not_shown(run: Run) -> None:
    run.start(1, "trm")
    run.wrote("trm", STEP, "train trm: step 9/9, 2 s each, 0 s left, reward 0.5")
    assert run.after(90).looked() == []
    run.wrote("trm", STEP)
    assert run.after(5).looked() == [f"    {STEP}"]


def test_warnings_are_said_once_and_again_at_the_end(run: Run) -> None:
    run.start(1, "trm")
    run.start(2, "iapo")
    run.wrote("trm", "warning: the disk is full", "Warning: a library's", "noise")
    assert run.after(5).looked() == ["warning: the disk is full"]
    run.wrote("trm", "warning: late")
    run.wrote("iapo", "warning: the disk is full")
    assert run.after(5).finished(1)[:-1] == ["warning: late"]
    assert run.after(5).finished(2)[:-1] == []
    assert run.output.closed()[:-1] == ["Warned of:", "- the disk is full (2 times)", "- late"]


def test_a_warning_with_other_numbers_is_the_same(run: Run) -> None:
    run.start(1, "trm")
    first = run.output.warned(["step 16: no row for 1 of 44 calls (2.5 %)", "step 3: groups all equal"])
    assert first == ["warning: step 16: no row for 1 of 44 calls (2.5 %)", "warning: step 3: groups all equal"]
    assert run.output.warned(["step 21: no row for 1 of 9 calls (11 %)"]) == []
    assert "- step 16: no row for 1 of 44 calls (2.5 %) (2 times)" in run.output.closed()


def test_many_and_long_warnings_do_not_fill_the_end(run: Run) -> None:
    run.start(1, "trm")
    run.output.warned([f"{chr(ord('a') + number)} {'word ' * 50}" for number in range(25)])
    closed = run.output.closed()
    assert len(closed) == 13 and closed[11] == "- and 15 more, above"
    assert max(map(len, closed)) <= 102


def test_a_failed_job_says_why_and_where_the_rest_is(run: Run) -> None:
    run.start(1, "trm")
    run.wrote("trm", "noise", "error: found no file, expected one")
    log = run.log("trm")
    assert run.after(5).job_failed(1, "train_policy_0", log) == [
        "failed to train trm, seed 0:",
        "    error: found no file, expected one",
        f"    (the whole log: {log})",
    ]
    assert run.output.repeated("CalledProcessError in file x: returned non-zero exit status 1.\n  File y")
    assert not run.output.repeated("CalledProcessError in file x: died with <Signals.SIGKILL: 9>.")
    assert not run.output.repeated("MissingOutputException: Job completed but its output is missing")
    last = run.output.closed()[-1]
    assert last.startswith(
        "Stopped after 5 s: 0 of 3 jobs done and 1 failed. The same command goes on from there, once"
    )


def test_jobs_of_an_interrupted_run_have_not_failed(run: Run) -> None:
    run.start(1, "trm")
    assert run.output.stopping(at_once=True) == ["Interrupted: ends the jobs that run."]
    assert run.output.stopping(at_once=True) == []
    assert run.after(5).job_failed(1, "train_policy_0", run.log("trm")) == []
    assert run.output.repeated("At least one job did not complete successfully.")
    assert run.output.closed() == [
        "Interrupted after 5 s: 0 of 3 jobs done. The same command goes on from there.",
    ]


def test_a_job_that_fails_while_others_are_waited_for_has_failed(run: Run) -> None:
    run.start(1, "trm")
    assert run.output.stopping(at_once=False) == ["Interrupted: waits for the jobs that run."]
    assert run.output.job_failed(1, "train_policy_0", run.log("trm"))[0] == "failed to train trm, seed 0:"


def test_what_a_log_held_before_is_of_an_earlier_run(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("warning: old\n")
    log = JobLog(path, path.stat().st_mtime + 5)
    assert log.new_warnings() == []


def test_a_line_that_is_half_written_is_left_for_later(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text(f"loading 10 %\rloading 20 %\n{STEP}\nwarning: ha")
    log = JobLog(path, 0)
    assert (log.new_warnings(), log.step) == ([], STEP)
    with path.open("a") as file:
        file.write("lf\n")
    assert (log.new_warnings(), log.step) == (["half"], STEP)


def test_the_step_lines_are_those_that_progress_prints(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("w") as file, Progress(2, "teacher 0: glyphs", every_seconds=0, stream=file) as progress:
        progress.update(1, loss=0.25)
        log = JobLog(path, 0)
        log.new_warnings()
        # Nothing took any time here.
        assert log.step == ""
        assert is_step_line(path.read_text()) and path.read_text().endswith("loss 0.25\n")


def test_this_project_s_warnings_are_told_from_those_of_libraries() -> None:
    def formatted(name: str, level: int) -> str:
        return OwnWarnings("%(message)s").format(logging.LogRecord(name, level, "", 0, "so", None, None))

    assert formatted("iapo.hub.folder", logging.WARNING) == "warning: so"
    assert formatted("iapo.hub.folder", logging.INFO) == "so"
    assert formatted("transformers", logging.WARNING) == "so"


@pytest.mark.parametrize("module", ["baselines.run", "iapo.training.trial"])
def test_a_process_that_a_job_starts_marks_its_warnings_too(
    module: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Up to where it reads its job, which is not there.
    (tmp_path / "begins.py").write_text(
        "import logging, runpy, sys\n"
        "sys.argv[1:] = ['nowhere']\n"
        "try:\n"
        f"    runpy.run_module({module!r}, run_name='__main__')\n"
        "except FileNotFoundError:\n"
        "    logging.getLogger('iapo.training.run').warning('so')\n"
        "    logging.getLogger('iapo.training.run').info('and so')\n"
        "    logging.getLogger('transformers').warning('theirs')\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    launch_alone("begins", tmp_path)
    path = tmp_path / "log"
    path.write_text(capsys.readouterr().err)
    assert JobLog(path, 0).new_warnings() == ["so"]
    # A library may have a handler of its own, with another prefix.
    lines = path.read_text().splitlines()
    assert "and so" in lines and any(line.endswith("theirs") for line in lines)


def test_this_project_s_errors_need_no_traceback() -> None:
    assert error_text(HubError("found\nexpected")) == "error: found\nerror: expected"
    assert error_text(ValueError("a surprise")) is None


def test_an_error_of_another_process_of_the_job_is_found(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text(
        "Traceback (most recent call last):\n  File x\niapo.teacher.rows.CacheError: found none, expected some\n"
        "iapo.teacher.rows.CacheError: found none, expected some\nmore noise\n"
    )
    assert why_failed(path) == ["iapo.teacher.rows.CacheError: found none, expected some"]
    assert why_failed(tmp_path / "none") == ["it left no log"]


def test_a_surprise_shows_the_last_lines(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("".join(f"{number}\n" for number in range(50)))
    assert why_failed(path) == [str(number) for number in range(30, 50)]


def test_what_a_check_found_stands_without_snakemake_s_places() -> None:
    text = 'PreflightError in file "common.smk", line 100:\nnot enough disk\nno GPU\n  File "x.py", line 66, in check'
    assert own_words(text) == ["error: not enough disk", "error: no GPU"]
