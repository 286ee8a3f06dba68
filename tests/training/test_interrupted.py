"""A training that is asked to end takes a checkpoint first, in one process and in two, and leaves none behind."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import pytest

from baselines import METHODS
from baselines.run import _JOB, TrainingJob
from iapo.artifacts.code_digest import ROOT
from iapo.config.declared import declare
from iapo.config.schema import Config, TrainConfig
from iapo.config.sources import HardwareConfig
from iapo.models.loading import save_model
from iapo.training.checkpoints import damage_of, last_checkpoint, metrics_file, step_of

STARTS = """
import sys
from pathlib import Path
from baselines.run import _JOB, run_job
from iapo.jobs.ending import exit_when_asked
with exit_when_asked():
    run_job(_JOB.validate_json(Path(sys.argv[1]).read_bytes()))
"""
# No step's checkpoint is due before the last.
MANY = TrainConfig(steps=500, groups_per_step=2, group_size=2, prompts_per_set=1, save_every=500)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_checkpoint_is_taken_at_the_end_of_a_step(
    tmp_path: Path, tiny: tuple[Any, Any], data_root: Path, processes: int
) -> None:
    save_model(*tiny, tmp_path / "start")
    config = Config(profile="test", train=MANY, hardware=HardwareConfig(processes=processes))
    job = TrainingJob(
        method="call_bonus", name="call_bonus", seed=0, config=asdict(config), data=data_root,
        settings=declare(config, *METHODS["call_bonus"].settings_read),
        start=tmp_path / "start", run_dir=tmp_path / "work", output=tmp_path / "out",
    )  # fmt: skip
    (tmp_path / "described.json").write_bytes(_JOB.dump_json(job))
    log = tmp_path / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", STARTS, str(tmp_path / "described.json")],
            env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=output, stderr=output,
        )  # fmt: skip
    metrics = metrics_file(job.run_dir)
    deadline = time.monotonic() + 240
    while not metrics.rows():
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)
    below = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 130, log.read_text()
    checkpoint = last_checkpoint(job.run_dir)
    assert checkpoint and damage_of(checkpoint) is None
    assert [row["step"] for row in metrics.rows()] == list(range(1, step_of(checkpoint) + 1))
    assert f"interrupted after step {step_of(checkpoint)}, which is saved" in log.read_text()
    assert not [each for each in below if each.is_running()] and not job.output.exists()
