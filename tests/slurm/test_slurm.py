"""Jobs under a real Slurm of one node on loopback, whose GPU is any device file: `make slurm_test`."""

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from iapo.artifacts.code_digest import ROOT
from iapo.training.checkpoints import damage_of, metrics_file, step_of

HERE = Path(__file__).parent
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(shutil.which("slurmctld") is None, reason="no Slurm here: apt-get install slurm-wlm munge"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may start a Slurm that runs jobs"),
]

SNAKEFILE = """
rule all:
    input: "first.txt", "second.txt"

rule hold:
    output: "{name}.txt"
    resources: gpu=%d
    shell: "date +%%s.%%N > {output}.part; sleep 3; date +%%s.%%N >> {output}.part; mv {output}.part {output}"
"""

STEPS = 200
"""Enough for a killed run's training to go on while its successor starts."""
OVERLAY = f"""
profile: cluster
seeds: [0]
seeds_per_job: 1
methods: [vtool_r1]
data: {{test_per_set: 4}}
train: {{steps: {STEPS}, save_every: 1}}
"""
CONFIGURED = ["--configfile", "config/smoke.yaml", "overlay.yaml"]
FORCED = ["--retries", "0", "--forcerun", "evaluate_policy_off_the_shelf_0"]


@pytest.fixture(scope="module")
def slurm() -> Iterator[dict[str, str]]:
    """The environment of a Slurm of one node with one GPU."""
    # Not below pytest's own folder: munged wants everyone to be able to reach its socket.
    with tempfile.TemporaryDirectory(prefix="iapo-slurm-") as folder:
        command = [str(HERE / "start.sh"), folder, "1", *map(str, free_ports(2))]
        started = subprocess.run(command, capture_output=True, text=True, check=False)
        assert started.returncode == 0, started.stderr
        search = f"{folder}/bin:{Path(sys.executable).parent}:{os.environ['PATH']}"
        yield {**os.environ, "SLURM_CONF": f"{folder}/slurm.conf", "PATH": search}
        subprocess.run([HERE / "stop.sh", folder], check=True)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def snakemake(folder: Path) -> list[str]:
    """The command, with the project's profile of a cluster and what this cluster lacks."""
    return [
        *(sys.executable, str(HERE / "poll_each_second.py")),
        *("--workflow-profile", str(ROOT / "profiles/slurm"), "--directory", str(folder)),
        # No accounting database, which sacct would ask, and no network file system.
        *("--slurm-status-command", "squeue", "--latency-wait", "5", "--slurm-init-seconds-before-status-checks", "1"),
    ]


def run(folder: Path, slurm: dict[str, str], *arguments: str, fails: bool = False) -> str:
    """Snakemake's log."""
    command = [*snakemake(folder), *arguments]
    done = subprocess.run(command, cwd=folder, env=slurm, capture_output=True, text=True, check=False, timeout=600)
    assert (done.returncode != 0) == fails, done.stderr
    return done.stderr


@contextmanager
def running(folder: Path, slurm: dict[str, str], log: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Snakemake while it runs; ended with the block."""
    with log.open("w") as output:
        process = subprocess.Popen(
            [*snakemake(folder), *arguments], cwd=folder, env=slurm, stdout=output, stderr=output
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for(condition: Callable[[], object], process: subprocess.Popen[bytes], log: Path) -> None:
    """Until the condition holds, for five minutes while the process lives."""
    end = time.monotonic() + 300
    while not condition():
        assert process.poll() is None and time.monotonic() < end, log.read_text()
        time.sleep(0.1)


def submitted(log: str, rule: str = r"\w+") -> list[str]:
    """Slurm's numbers of the jobs that Snakemake submitted."""
    return re.findall(rf"SLURM jobid (\d+) \(log: \S*/rule_{rule}/", log)


def rule_log(repository: Path, name: str) -> str:
    """What a job printed."""
    return (repository / f"results/cluster/logs/{name}.log").read_text()


def steps_of(work: Path) -> list[dict[str, float]]:
    """The metrics of each step; those of the policy that it begins with are of none."""
    return [row for row in metrics_file(work).rows() if row["step"]]


def saved(work: Path) -> int:
    """Steps of the last checkpoint that a run can go on from."""
    return max(
        (step_of(each) for each in (work / "checkpoints").glob("checkpoint-*") if not damage_of(each)), default=0
    )


def state(job: str, slurm: dict[str, str]) -> str:
    """Of a job, as Slurm has it."""
    command = ["squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={job}"]
    return subprocess.run(command, env=slurm, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("gpus", [0, 1])
def test_jobs_that_share_the_only_gpu_take_turns(slurm: dict[str, str], tmp_path: Path, gpus: int) -> None:
    """Where none asks for a GPU, the same jobs run side by side."""
    (tmp_path / "Snakefile").write_text(SNAKEFILE % gpus)
    jobs = submitted(run(tmp_path, slurm))
    assert [state(job, slurm) for job in jobs] == ["COMPLETED"] * 2
    spans = sorted(
        [float(line) for line in (tmp_path / f"{name}.txt").read_text().split()] for name in ("first", "second")
    )
    (_, end), (start, _) = spans
    assert (start >= end) == (gpus == 1), spans


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy that runs its own code."""
    copy = tmp_path_factory.mktemp("repository")
    shutil.copy(ROOT / "Snakefile", copy)
    for name in ("workflow", "config", "iapo", "baselines", "benchmarks"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "overlay.yaml").write_text(OVERLAY)
    return copy


def test_the_pipeline_outlives_a_cancelled_job_and_a_killed_snakemake(
    slurm: dict[str, str], repository: Path, tmp_path: Path
) -> None:
    slurm = slurm | {"PYTHONPATH": str(repository)}
    work = repository / "results/cluster/train/vtool_r1/seed0/work"
    # Without the profile's retries, by which the cancelled job would go on at once.
    command = ["results/table.csv", *CONFIGURED, "--retries", "0"]

    log = tmp_path / "cancelled.log"
    with running(repository, slurm, log, *command) as process:
        wait_for(lambda: saved(work) >= 3, process, log)
        (cancelled,) = submitted(log.read_text(), "train_policy_0")
        subprocess.run(["scancel", cancelled], env=slurm, check=True)
        # What does not need it goes on.
        wait_for(lambda: process.poll() is not None, process, log)
        assert process.returncode == 1
    assert state(cancelled, slurm) == "CANCELLED"
    assert not (repository / "results/table.csv").exists()
    checkpoint = saved(work)
    # Each has the seconds that it took, so a step that was trained again would differ.
    kept = [row for row in steps_of(work) if row["step"] <= checkpoint]
    assert len(kept) == checkpoint < STEPS

    log = tmp_path / "killed.log"
    with running(repository, slurm, log, *command) as process:
        wait_for(lambda: saved(work) >= checkpoint + 2, process, log)
        process.kill()
        process.wait()
    (orphan,) = submitted(log.read_text())
    assert state(orphan, slurm) == "RUNNING"

    resumed = run(repository, slurm, *command)
    assert len(submitted(resumed, "train_policy_0")) == 1
    assert re.search(r"is in use by process \d+; waiting for it to end", rule_log(repository, "train/vtool_r1/seed0"))
    jobs = submitted(resumed)
    assert {state(job, slurm) for job in [*jobs, orphan]} == {"COMPLETED"}
    rows = steps_of(work)
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert rows[:checkpoint] == kept
    assert "vtool_r1" in (repository / "results/table.csv").read_text()


def test_a_training_that_is_requeued_saves_its_step_and_goes_on_from_it(
    slurm: dict[str, str], repository: Path, tmp_path: Path
) -> None:
    slurm = slurm | {"PYTHONPATH": str(repository)}
    policy = repository / "results/cluster/train/vtool_r1/seed0"
    work, log = policy / "work", tmp_path / "requeued.log"
    shutil.rmtree(work, ignore_errors=True)
    # No checkpoint is due before the last step.
    seldom = ["--config", f"train={{save_every: {STEPS}}}", "--forcerun", "train_policy_0"]
    target = str((policy / "model/model.safetensors").relative_to(repository))
    with running(repository, slurm, log, target, *CONFIGURED, *seldom) as process:
        wait_for(lambda: len(steps_of(work)) >= 3, process, log)
        (job,) = submitted(log.read_text(), "train_policy_0")
        # As preemption does: SIGTERM, SIGKILL after a while, and the job waits for its turn again.
        subprocess.run(["scontrol", "requeue", job], env=slurm, check=True)
        wait_for(lambda: state(job, slurm) == "PENDING", process, log)
        step, kept = saved(work), steps_of(work)
        wait_for(lambda: process.poll() is not None, process, log)
        assert process.returncode == 0, log.read_text()
    assert len(submitted(log.read_text(), "train_policy_0")) == 1 and state(job, slurm) == "COMPLETED"
    assert 3 <= step < STEPS and [row["step"] for row in kept] == list(range(1, step + 1))
    rows = steps_of(work)
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1)) and rows[:step] == kept


def test_a_job_looks_at_its_gpu_and_the_login_node_does_not(
    slurm: dict[str, str], repository: Path, tmp_path: Path
) -> None:
    """Slurm's GPU is no real one, and neither machine has another."""
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho No devices were found\nexit 6\n")
    program.chmod(0o755)
    slurm = slurm | {"PYTHONPATH": str(repository), "PATH": f"{tmp_path}:{slurm['PATH']}"}
    target = "results/cluster/eval/untrained/seed0/records.parquet"
    log = run(repository, slurm, target, *CONFIGURED, "--config", "device=cuda", *FORCED, fails=True)
    (job,) = submitted(log, "evaluate_policy_off_the_shelf_0")
    assert state(job, slurm) == "FAILED"
    said = r"^error: \S+: device: found no NVIDIA GPU, CUDA_VISIBLE_DEVICES names 0;"
    assert re.search(said, rule_log(repository, "evaluate/untrained/off_the_shelf_0"), re.MULTILINE)
