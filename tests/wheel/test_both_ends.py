"""docs/own_trainer.py with the wheel in empty environments: the oldest and the newest packages that it allows.

``make wheel_test``; it needs the package index, 12 GB of disk and some minutes.
"""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from iapo.artifacts.code_digest import ROOT
from iapo.cold_start.stages import cold_start
from iapo.config.mini_world import ColdStartConfig, DataConfig, DemonstrationConfig, ModelConfig
from iapo.config.schema import Config, TeacherConfig
from iapo.data.build import build
from iapo.data.selection import training_prompts
from iapo.data.store import read_split
from iapo.models.loading import save_model
from iapo.models.tiny import build_model
from iapo.teacher.build_cache import TeacherPass
from iapo.teacher.fingerprint import fingerprint, hash_processor, hash_weights
from iapo.teacher.writer import CacheWriter

pytestmark = pytest.mark.wheel

UV = Path(sys.executable).with_name("uv")


def uv(*arguments: str | Path) -> str:
    done = subprocess.run([UV, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """Questions, a tiny policy that has learned to call tools, and the cache of its attributions."""
    build(DataConfig(train_per_set=40, dev_per_set=5, test_per_set=5), tmp_path / "data")
    questions = read_split(tmp_path / "data", "train", ("h_bar", "v_bar"))
    model, processor = build_model(ModelConfig(hidden_size=48), seed=0)
    calls = DemonstrationConfig(tool_rate=1.0, right_family_rate=1.0)
    stages = ColdStartConfig(1, 1, demonstration_steps=60, batch_size=16, reading_batch_size=8, demonstrations=calls)
    cold_start(model, processor, questions, stages, name="student")
    save_model(model.eval(), processor, tmp_path / "model")
    config = Config(profile="wheel", teacher=TeacherConfig(sampled_calls=1))
    address = fingerprint(
        hash_weights(tmp_path / "model"), hash_processor(tmp_path / "model"), config.teacher_attribution, "wheel"
    )
    writer = CacheWriter(tmp_path / "cache", address)
    TeacherPass(model, processor, config, writer).run(training_prompts(questions, 8))
    return tmp_path


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[Path]:
    """An empty virtual environment, removed at once since it takes gigabytes."""
    folder = tmp_path / "environment"
    uv("venv", "--quiet", "--python", sys.executable, folder)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("end", ["lowest-direct", "highest"])
def test_ten_steps_with_the_wheel_alone(end: str, wheel: Path, inputs: Path, environment: Path) -> None:
    python = environment / "bin/python"
    # Named one by one, the wheel's own needs are direct ones, and each is taken at that end of its range.
    options = ("--resolution", end, "--quiet", "--python", python, "--no-header")
    wanted = uv("pip", "compile", ROOT / "pyproject.toml", *options)
    (inputs / "wanted.txt").write_text(wanted)
    uv("pip", "install", "--quiet", "--python", python, "-r", inputs / "wanted.txt", wheel)
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [python, ROOT / "tests/wheel/ten_steps.py", ROOT / "docs/own_trainer.py", inputs],
        cwd=inputs, capture_output=True, text=True, env=variables | {"HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(end, {name: found[name] for name in ("torch", "transformers", "trl")})
    assert Path(found["iapo"]).is_relative_to(environment) and found["others"] == []
    steps = re.findall(r"^step (\d+): reward (\S+) = (\S+) right - 0\.5 \* (\S+) penalty$", done.stdout, re.MULTILINE)
    assert [int(step) for step, *_ in steps] == [*range(1, 11)]
    for _, reward, right, penalty in steps:
        assert math.isclose(float(reward), float(right) - 0.5 * float(penalty), abs_tol=2e-3)
    assert any(float(penalty) > 0 for *_, penalty in steps)
    assert (inputs / "out/model/model.safetensors").stat().st_size > 0
