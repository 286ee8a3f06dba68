"""The runner of GPU checks: time limits, failures, resuming, and the file of a card."""

import json
import sys
import time
from pathlib import Path

import pytest

from benchmarks.gpu_check import __main__ as command_line
from benchmarks.gpu_check import runner
from benchmarks.gpu_check.card import file_stem, sustained, write_card
from benchmarks.gpu_check.checks import CHECKS, Check
from benchmarks.gpu_check.finding import Bound, SkippedCheck
from benchmarks.gpu_check.runner import Job, identity_of, read_lines, run_all
from benchmarks.gpu_check.scale import TINY

PASSES = "import json, sys; json.dump({'status': 'passed', 'figures': {'x': 1}}, open(sys.argv[1], 'w'))"
FAILS = "import json, sys; json.dump({'status': 'failed', 'reason': 'too slow'}, open(sys.argv[1], 'w'))"
CRASHES = "raise SystemExit('no such card')"
HANGS = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open(sys.argv[1] + ".pids", "w").write(str(child.pid))
time.sleep(600)
"""


def job(folder: Path, name: str, code: str, seconds: float = 60) -> Job:
    result = folder / f"{name}.json"
    return Job(name, (sys.executable, "-c", code, str(result)), result, seconds)


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be reaped does not."""
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def test_a_check_that_hangs_is_ended_with_what_it_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "_GRACE", 1.0)
    started = time.monotonic()
    (row,) = run_all([job(tmp_path, "hangs", HANGS, seconds=5)], tmp_path / "lines.jsonl", "now")
    assert row["status"] == "timed out" and row["seconds"] >= 5
    assert time.monotonic() - started < 30
    child = int((tmp_path / "hangs.json.pids").read_text())
    until = time.monotonic() + 10
    while alive(child) and time.monotonic() < until:
        time.sleep(0.1)
    assert not alive(child)


def test_a_check_that_crashes_fails_and_its_log_says_why(tmp_path: Path) -> None:
    rows = run_all([job(tmp_path, "crashes", CRASHES), job(tmp_path, "passes", PASSES)], tmp_path / "l.jsonl", "now")
    assert [row["status"] for row in rows] == ["failed", "passed"]
    assert "no such card" in rows[0]["reason"]


def test_a_second_call_repeats_what_has_not_passed_and_what_other_code_found(tmp_path: Path) -> None:
    lines = tmp_path / "lines.jsonl"
    jobs = [job(tmp_path, "passes", PASSES), job(tmp_path, "fails", FAILS)]
    run_all(jobs, lines, "now")
    again = [job(tmp_path, "passes", CRASHES), job(tmp_path, "fails", PASSES)]
    rows = run_all(again, lines, "now")
    assert [row["status"] for row in rows] == ["passed", "passed"]
    assert [row["check"] for row in read_lines(lines)] == ["passes", "fails", "fails"]
    assert [row["status"] for row in run_all(again, lines, "other code")] == ["failed", "passed"]


def test_a_line_that_a_kill_has_cut_short_is_left_out_and_not_glued_to_the_next(tmp_path: Path) -> None:
    lines = tmp_path / "lines.jsonl"
    lines.write_text('{"check": "a", "status": "passed", "identity": "now"}\n{"check": "b", "sta')
    run_all([job(tmp_path, "b", PASSES)], lines, "now")
    assert [row["check"] for row in read_lines(lines)] == ["a", "b"]


def test_identity_follows_versions_scale_and_card() -> None:
    one = identity_of({"torch": "2.11"}, "real", "H100")
    assert one == identity_of({"torch": "2.11"}, "real", "H100")
    others = {identity_of({"torch": "2.13"}, "real", "H100"), identity_of({"torch": "2.11"}, "tiny", "H100")}
    assert len(others | {one, identity_of({"torch": "2.11"}, "real", "H200")}) == 4


@pytest.mark.parametrize(("found", "kept"), [(1.0, True), (1.2, False), (float("nan"), False), (float("inf"), False)])
def test_a_bound_is_kept_by_a_number_that_is_no_larger(found: float, kept: bool) -> None:
    assert Bound(found, 1.15).kept is kept


def test_what_a_machine_lacks_skips_a_check() -> None:
    import torch

    missing = Check("z", "z", "nowhere:z", 1, needs=("no_such_package",))
    with pytest.raises(SkippedCheck, match="no_such_package; `make gpu_wheels`"):
        missing.run(TINY, torch.device("cpu"), Path())
    with pytest.raises(SkippedCheck, match="GPUs only"):
        Check("z", "z", "nowhere:z", 1, on_gpu="on GPUs only").run(TINY, torch.device("cpu"), Path())


@pytest.mark.parametrize(("code", "status"), [(PASSES, 0), (FAILS, 1), (HANGS, 1)])
def test_the_exit_status_says_whether_a_check_failed(
    code: str, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runner, "_GRACE", 1.0)
    monkeypatch.setattr(
        command_line, "jobs", lambda names, scale, work: [job(tmp_path, name, code, 5) for name, _ in names]
    )
    found = command_line.main(["--tiny", "--only", "a", "--out", str(tmp_path / "lines.jsonl")])
    assert found == status
    assert json.loads((tmp_path / "lines.json").read_text())["checks"].keys() == {"throughput"}
    assert "throughput" in capsys.readouterr().out.splitlines()[0]


def test_an_unknown_check_is_refused_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command_line.main(["--tiny", "--only", "a,zz"])
    assert "found no check zz" in capsys.readouterr().err


def test_the_real_checks_fit_two_calls_and_are_named_once() -> None:
    assert len({check.name for check in CHECKS}) == len(CHECKS)
    groups = [check.group for check in CHECKS]
    assert groups == sorted(groups) and set(groups) == set("abcdefghij")


def test_a_cards_file_says_what_the_estimate_takes(tmp_path: Path) -> None:
    throughput = {"check": "throughput", "status": "passed", "figures": {"decode_tb_s": 1.9}}
    attribution = {"check": "attribution", "status": "passed", "figures": {"bfloat16": {"sustained_tflops": 310.0}}}
    steps = {"check": "steps", "status": "passed", "figures": {"sustained_tflops": 205.0}}
    assert sustained({}) == {}
    assert sustained({"throughput": throughput}) == {"bandwidth_tb": 1.9}
    both = {"throughput": throughput, "attribution": attribution}
    assert sustained(both) == {"tflops": 310.0, "bandwidth_tb": 1.9}
    write_card(tmp_path / "card.json", "NVIDIA H100 80GB HBM3", "real", [throughput, attribution, steps])
    found = json.loads((tmp_path / "card.json").read_text())
    assert found["hardware"] == {"tflops": 205.0, "bandwidth_tb": 1.9}
    assert file_stem(found["card"]) == "gpu_nvidia_h100_80gb_hbm3"


def test_processes_are_started_from_the_root_whatever_the_folder(tmp_path: Path) -> None:
    code = "import json, os, sys; json.dump({'status': 'passed', 'at': os.getcwd()}, open(sys.argv[1], 'w'))"
    (row,) = run_all([job(tmp_path, "where", code)], tmp_path / "l.jsonl", "now")
    assert Path(row["at"]).samefile(runner.ROOT)
