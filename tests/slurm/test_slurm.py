"""Jobs under a real Slurm of one node on loopback, whose GPU is any device file: `make slurm_test`."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from iapo.provenance import ROOT

HERE = Path(__file__).parent
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(shutil.which("slurmctld") is None, reason="no Slurm here: apt-get install slurm-wlm munge"),
]

SNAKEFILE = """
rule all:
    input: "first.txt", "second.txt"

rule hold:
    output: "{name}.txt"
    resources: gpu=%d
    shell: "date +%%s.%%N > {output}.part; sleep 3; date +%%s.%%N >> {output}.part; mv {output}.part {output}"
"""


@pytest.fixture(scope="module")
def slurm() -> Iterator[dict[str, str]]:
    """The environment of a Slurm of one node with one GPU."""
    # Not below pytest's own folder: munged wants everyone to be able to reach its socket.
    with tempfile.TemporaryDirectory(prefix="iapo-slurm-") as folder:
        command = [HERE / "start.sh", folder, "1", *map(str, free_ports(2))]
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


def run(folder: Path, slurm: dict[str, str], *arguments: str) -> str:
    """Snakemake's log with the project's profile of a cluster."""
    command = [sys.executable, str(HERE / "poll_each_second.py"), "--workflow-profile", str(ROOT / "profiles/slurm")]
    done = subprocess.run(
        [*command, *arguments], cwd=folder, env=slurm, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.parametrize("gpus", [0, 1])
def test_jobs_that_share_the_only_gpu_take_turns(slurm: dict[str, str], tmp_path: Path, gpus: int) -> None:
    """Where none asks for a GPU, the same jobs run side by side."""
    (tmp_path / "Snakefile").write_text(SNAKEFILE % gpus)
    # No accounting database here, which sacct would ask.
    log = run(tmp_path, slurm, "--latency-wait", "5", "--slurm-status-command", "squeue")
    assert log.count("has been submitted with SLURM jobid") == 2
    spans = sorted(
        [float(line) for line in (tmp_path / f"{name}.txt").read_text().split()] for name in ("first", "second")
    )
    (_, end), (start, _) = spans
    assert (start >= end) == (gpus == 1), spans
    ended = Path(slurm["SLURM_CONF"]).with_name("jobs_ended.txt").read_text()
    assert ended.count("JobState=COMPLETED") >= 2
