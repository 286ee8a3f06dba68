"""GPUs are found as the driver lists them, and claimed by real processes that must never share one."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from iapo.jobs.gpu_lock import Gpu, GpuError, claim_gpus, installed_gpus, visible_gpus

ROOT = Path(__file__).resolve().parents[2]
WORKER = """
import json, logging, os, sys, time
import iapo.jobs.gpu_lock
logging.basicConfig(stream=sys.stdout, level="INFO", format="%(message)s")
iapo.jobs.gpu_lock._LOOK_AGAIN_SECONDS = 0.02
count, seconds, log = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
claimed = iapo.jobs.gpu_lock.claim_gpus(count)
assert os.environ["CUDA_VISIBLE_DEVICES"] == ",".join(claimed)
began = time.monotonic()
print("claimed", *claimed, flush=True)
time.sleep(seconds)
with open(log, "a") as lines:
    lines.write(json.dumps([claimed, began, time.monotonic()]) + "\\n")
"""


class Jobs:
    """Processes that claim GPUs on one machine."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "log.jsonl"
        self._environment = os.environ | {"TMPDIR": str(folder), "PYTHONPATH": str(ROOT)}
        self._started: list[subprocess.Popen[str]] = []

    def start(self, count: int, seconds: float, pool: str, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(count), str(seconds), str(self.log)],
            env=self._environment | {"CUDA_VISIBLE_DEVICES": pool} | environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._started.append(process)
        return process

    def end(self) -> None:
        for process in self._started:
            process.kill()
            process.wait()


@pytest.fixture
def jobs(tmp_path: Path, request: pytest.FixtureRequest) -> Jobs:
    started = Jobs(tmp_path)
    request.addfinalizer(started.end)
    return started


def _claimed(process: subprocess.Popen[str]) -> list[str]:
    """The names that a job prints once it has them."""
    assert process.stdout is not None
    patience = threading.Timer(15, process.kill)
    patience.start()
    try:
        for line in process.stdout:
            if line.startswith("claimed ") and not line.startswith("claimed GPU"):
                return line.split()[1:]
    finally:
        patience.cancel()
    raise AssertionError("the job claimed nothing within 15 s")


def test_jobs_side_by_side_never_share_a_gpu(jobs: Jobs) -> None:
    processes = [jobs.start(count, 0.15, "0,1,2,3") for count in (1, 2, 3, 4, 1, 2, 3, 2)]
    assert [process.wait(timeout=60) for process in processes] == [0] * len(processes)
    held = [json.loads(line) for line in jobs.log.read_text().splitlines()]
    assert sorted(len(names) for names, _, _ in held) == [1, 1, 2, 2, 2, 3, 3, 4]
    for i, (names, began, ended) in enumerate(held):
        for others, other_began, other_ended in held[:i]:
            assert not set(names) & set(others) or began >= other_ended or other_began >= ended


def test_a_waiting_job_holds_nothing(jobs: Jobs) -> None:
    """Two jobs that each hold one of two would wait for ever; one that waits for two must leave the second free."""
    first = jobs.start(1, 60, "0,1")
    assert _claimed(first) == ["0"]
    waiting = jobs.start(2, 0, "0,1")
    assert waiting.stdout is not None
    said = waiting.stdout.readline()
    assert "waiting for 2 free GPUs of 0, 1: found 1" in said and f"process {first.pid}" in said
    assert _claimed(jobs.start(1, 0, "0,1")) == ["1"]
    first.send_signal(signal.SIGKILL)
    assert _claimed(waiting) == ["0", "1"]


def test_an_allocation_of_slurm_has_claims_of_its_own(jobs: Jobs) -> None:
    """Both count their cards from 0, and mean different ones."""
    assert _claimed(jobs.start(1, 60, "0", SLURM_JOB_ID="7")) == ["0"]
    assert _claimed(jobs.start(1, 60, "0", SLURM_JOB_ID="8")) == ["0"]
    # Two jobs in one allocation of two.
    assert _claimed(jobs.start(1, 60, "0,1", SLURM_JOB_ID="7")) == ["1"]


def test_names_are_kept_as_they_are_set(jobs: Jobs) -> None:
    name = "MIG-GPU-5f1e/1/0"
    assert _claimed(jobs.start(1, 0, name)) == [name]


def test_too_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(GpuError, match=r"found 2 GPUs \(0, 1\), the job needs 4; lower `hardware.processes`"):
        claim_gpus(4, folder=tmp_path)
    assert claim_gpus(0) == []
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"


def test_a_process_claims_once(tmp_path: Path) -> None:
    script = "from iapo.jobs.gpu_lock import claim_gpus; claim_gpus(1, ['0', '1']); claim_gpus(1)"
    result = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        timeout=30,
        check=False,
    )
    assert result.returncode and "has claimed its GPUs already" in result.stderr


@pytest.mark.parametrize(("device", "seen"), [("cuda", "1"), ("cpu", "1,0")])
def test_a_job_of_the_workflow_claims_before_its_script_runs(
    tmp_path: Path, jobs: Jobs, device: str, seen: str
) -> None:
    assert _claimed(jobs.start(1, 60, "0")) == ["0"]
    script = (
        "import os, sys; from types import SimpleNamespace; from iapo.jobs.workflow_job import job\n"
        "config = {'profile': 'test', 'device': sys.argv[1]}\n"
        "with job(SimpleNamespace(config=config, log=['log'], threads=1, resources={'gpu': 1},"
        " rule='x', input=[], output=[], params={})):\n"
        "    assert 'torch' not in sys.modules\n"
        "    print('sees', os.environ['CUDA_VISIBLE_DEVICES'])\n"
    )
    subprocess.run(
        [sys.executable, "-c", script, device],
        cwd=tmp_path,
        env=os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "1,0"},
        timeout=60,
        check=True,
    )
    said = (tmp_path / "log").read_text()
    assert f"sees {seen}" in said
    assert ("claimed GPU 1 of 1, 0" in said) == (device == "cuda")


Program = Callable[[str], None]


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Puts a program of that name in front of all others."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def write(body: str) -> None:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{body}\n")
        program.chmod(0o755)

    return write


def test_what_nvidia_smi_lists(nvidia_smi: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi(
        '[ "$2" = --format=csv,noheader,nounits ] || exit 9\n'
        'case "$1" in --query-gpu=index,uuid,memory.total,driver_version) ;; *) exit 9;; esac\n'
        "echo '0, GPU-2b1c, 81559, 580.95.05'\n"
        "echo '1, GPU-9f0e, [N/A], 580.95.05'"
    )
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    first, second = installed_gpus()
    assert first == Gpu("0", "GPU-2b1c", pytest.approx(85.5, abs=0.1), "580.95.05")  # type: ignore[arg-type]
    assert second == Gpu("1", "GPU-9f0e", None, "580.95.05")
    assert visible_gpus([first, second]) == ["0", "1"]


def test_a_driver_that_fails(nvidia_smi: Program) -> None:
    nvidia_smi('echo "couldn\'t communicate with the NVIDIA driver"; exit 9')
    with pytest.raises(GpuError, match=r"couldn't communicate with the NVIDIA driver; .*reinstall"):
        installed_gpus()
    nvidia_smi("echo 'No devices were found'; exit 6")
    assert installed_gpus() == []


@pytest.mark.parametrize(
    ("value", "seen"),
    [("2,0", ["2", "0"]), ("", []), ("-1", []), ("0,-1,1", ["0"]), ("GPU-2b1c, GPU-9f0e", ["GPU-2b1c", "GPU-9f0e"])],
)
def test_visible_devices_are_read_as_cuda_does(value: str, seen: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert visible_gpus([Gpu(str(i), f"GPU-{i}", 80.0, "580.1") for i in range(8)]) == seen
