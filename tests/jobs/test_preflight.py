"""What is said before a run starts, with a driver's, a server's and a package's real answers."""

import json
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from iapo.config.method import VerifierConfig
from iapo.config.schema import Config, load_config
from iapo.jobs import preflight
from iapo.jobs.preflight import (
    PreflightError,
    check_disk,
    check_gpus,
    check_job,
    check_packages,
    check_server,
    check_start,
    check_verifier,
    report_problems,
)

H100 = "81559, 580.95.05"
OLD_CARD = "24576, 535.183.01"


def _config(**changes: Any) -> Config:
    return load_config({"profile": "test"} | changes)


@pytest.fixture
def cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Has ``nvidia-smi`` list GPUs with this memory (MiB) and driver."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def write(*found: str) -> None:
        rows = "".join(f"echo '{i}, GPU-{i}, {each}'\n" for i, each in enumerate(found))
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{rows}")
        program.chmod(0o755)

    return write


def test_gpus_that_will_do(cards: Callable[..., None]) -> None:
    cards(H100, H100)
    check_gpus(2, 80.0, None)


def test_all_that_is_wrong_with_the_gpus_is_said_at_once(cards: Callable[..., None]) -> None:
    cards(H100, OLD_CARD)
    with pytest.raises(PreflightError) as error:
        check_gpus(4, 61.0, None)
    count, memory, driver = str(error.value).splitlines()
    assert count.startswith("hardware.processes: found 2 GPUs, expected at least 4")
    assert "a GPU has 26 GB, the run needs about 61 GB" in memory
    assert "found NVIDIA driver 535.183.01, this torch is built for CUDA 13.0 and needs 580" in driver


def test_only_visible_gpus_count(cards: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    cards(OLD_CARD, H100)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    check_gpus(1, 80.0, None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-1")
    check_gpus(1, 80.0, None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-0")
    with pytest.raises(PreflightError, match="a GPU has 26 GB"):
        check_gpus(1, 80.0, None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    with pytest.raises(PreflightError, match=r"found 1 GPUs \(CUDA_VISIBLE_DEVICES limits them\), expected at least 2"):
        check_gpus(2, 80.0, None)


def test_the_configured_memory_comes_first(cards: Callable[..., None]) -> None:
    cards(H100)
    with pytest.raises(PreflightError, match="a GPU has 40 GB"):
        check_gpus(1, 61.0, 40.0)


def test_a_gpu_that_is_named_and_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "installed_gpus", list)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(PreflightError, match="found no NVIDIA GPU, CUDA_VISIBLE_DEVICES names 0"):
        check_gpus(1, None, None)


@pytest.mark.parametrize(
    ("cuda", "driver", "fails"),
    [
        ("'12.8'", "535.183.01", False),
        ("'12.8'", "520.61.05", True),
        ("'13.0'", "580.65.06", False),
        ("None", H100, True),
    ],
)
def test_the_driver_that_torch_needs(
    cards: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cuda: str, driver: str, fails: bool
) -> None:
    (tmp_path / "version.py").write_text(
        f"__version__ = '2.13.0'\ncuda: Optional[str] = {cuda}\nhip: Optional[str] = '7.0'\n"
    )
    monkeypatch.setattr(
        preflight.importlib.util, "find_spec", lambda _: SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    )
    cards(f"81559, {driver}")
    if fails:
        with pytest.raises(PreflightError, match=r"driver: found|has no CUDA"):
            check_gpus(1, None, None)
    else:
        check_gpus(1, None, None)


def test_the_installed_torch_says_its_cuda() -> None:
    import torch

    assert preflight._cuda_of_torch() == torch.version.cuda


def test_packages_and_strategy(monkeypatch: pytest.MonkeyPatch) -> None:
    check_packages(_config())
    monkeypatch.setattr(preflight.importlib.util, "find_spec", lambda _: None)
    rollouts = {"train": {"rollouts": "vllm_colocate"}, "teacher": {"train": {"rollouts": "vllm_server"}}}
    with pytest.raises(PreflightError) as error:
        check_packages(_config(**rollouts, hardware={"strategy": "zero2"}))
    vllm, deepspeed, strategy = str(error.value).splitlines()
    assert vllm.startswith("train.rollouts: found vllm_colocate, vllm_server without the package vllm")
    assert deepspeed.startswith("hardware.strategy: found zero2 without the package deepspeed")
    assert "uv pip install -e '.[gpu]'" in vllm and "uv pip install -e '.[gpu]'" in deepspeed
    assert strategy.startswith("hardware.strategy: found zero2 with `device: cpu`")


def test_a_variant_that_asks_for_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight.importlib.util, "find_spec", lambda _: None)
    variant = {"method": "iapo", "settings": {"train": {"rollouts": "vllm_colocate"}}}
    with pytest.raises(PreflightError, match="vllm_colocate without the package vllm"):
        check_packages(_config(variants={"fast": variant}))


def test_disk(tmp_path: Path) -> None:
    check_disk(tmp_path / "not" / "yet" / "there", 1e-6)
    with pytest.raises(PreflightError, match=r"GB of free disk, the run needs about 1000000 GB.*hardware\.disk_gb"):
        check_disk(tmp_path / "not" / "yet" / "there", 1e6)


class Server(HTTPServer):
    status = 200
    answer = b""
    is_slow = False
    keys: list[str | None]


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.server.keys.append(self.headers.get("Authorization"))
        self.send_response(self.server.status if self.path == "/v1/models" else 404)
        self.end_headers()
        with suppress(OSError):
            for i in range(len(self.server.answer) if self.server.is_slow else 0):
                self.wfile.write(self.server.answer[i : i + 1])
                time.sleep(0.05)
            self.wfile.write(self.server.answer)


@pytest.fixture
def server() -> Iterator[Server]:
    started = Server(("127.0.0.1", 0), _Handler)
    started.keys = []
    threading.Thread(target=started.serve_forever, args=(0.02,), daemon=True).start()
    yield started
    started.shutdown()
    started.server_close()


def test_a_verifier_that_serves_the_model(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", "secret")
    verifier = VerifierConfig(
        kind="server", base_url=f"http://127.0.0.1:{server.server_port}/v1/", model="judge-7b", key_variable="A_KEY"
    )
    server.answer = json.dumps({"data": [{"id": "judge-7b"}]}).encode()
    check_verifier(verifier)
    assert server.keys == ["Bearer secret"]
    server.answer = json.dumps({"data": [{"id": "judge-70b"}]}).encode()
    with pytest.raises(PreflightError, match=r"found 'judge-7b', which .* does not serve; did you mean 'judge-70b'"):
        check_verifier(verifier)
    server.answer = b"no list of models"
    check_verifier(verifier)
    server.status = 401
    with pytest.raises(PreflightError, match=r"refuses the key \(status 401\).*A_KEY") as error:
        check_verifier(verifier)
    assert "secret" not in str(error.value)
    server.status = 500
    check_verifier(verifier)


def test_no_key_is_ever_shown(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"http://127.0.0.1:{server.server_port}/v1"
    monkeypatch.setenv("OPENAI_API_KEY", "sk-EXAMPLE-1\n")
    verifier = VerifierConfig(kind="server", base_url=address)
    check_verifier(verifier)
    assert server.keys == ["Bearer sk-EXAMPLE-1"]
    named = replace(verifier, base_url=address.replace("//", "//me:token@"))
    check_verifier(named)
    assert server.keys[-1] == "Basic bWU6dG9rZW4="
    server.answer = json.dumps({"data": [{"id": "other"}]}).encode()
    lost = replace(verifier, base_url="http://me:token@127.0.0.1:9/v1")
    wrong = replace(verifier, base_url="http://me:token@host:token/v1")
    for config, found in [(named, r"which http://\*\*\*@127"), (lost, "does not answer"), (wrong, "it is no address")]:
        with pytest.raises(PreflightError, match=found) as error:
            check_verifier(config)
        assert "token@" not in str(error.value) and "EXAMPLE" not in str(error.value)
    for key in ("sk-EXAMPLE\n-1", "sk-EXAMPLÉ"):
        monkeypatch.setenv("OPENAI_API_KEY", key)
        with pytest.raises(PreflightError, match=r"^verifier\.key_variable: OPENAI_API_KEY: found a key") as error:
            check_verifier(verifier)
        assert "EXAMPL" not in str(error.value) and "\n" not in str(error.value)


def test_a_server_that_does_not_end(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"http://127.0.0.1:{server.server_port}/v1/models"
    server.answer = b" " * 10**7
    assert check_server("verifier.base_url", address) == b""
    monkeypatch.setattr(preflight, "_ANSWER_SECONDS", 0.3)
    server.is_slow = True
    start = time.monotonic()
    with pytest.raises(PreflightError, match=r"does not answer \(found no complete reply within 0\.3 s\)"):
        check_server("verifier.base_url", address)
    assert time.monotonic() - start < 2


def test_a_server_that_is_not_there(server: Server) -> None:
    check_server("hardware.vllm_server", f"http://127.0.0.1:{server.server_port}")
    with pytest.raises(PreflightError, match=r"hardware\.vllm_server: http://127\.0\.0\.1:9 does not answer"):
        check_server("hardware.vllm_server", "http://127.0.0.1:9")
    with pytest.raises(PreflightError, match="localhost:8000 does not answer"):
        check_server("hardware.vllm_server", "localhost:8000")


def test_every_problem_of_a_start(cards: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cards(H100)
    config = _config(
        device="cuda",
        hardware={"processes": 2, "disk_gb": 1e6, "vllm_server": "http://127.0.0.1:9"},
        train={"rollouts": "vllm_server"},
        verifier={"kind": "server", "base_url": "http://127.0.0.1:9/v1"},
    )
    monkeypatch.setattr(preflight, "check_packages", lambda _: None)
    with pytest.raises(PreflightError) as error:
        check_start(config, folder=tmp_path, memory_gb=100.0, disk_gb=1e-6, asks_verifier=True)
    keys = [line.partition(":")[0] for line in str(error.value).splitlines()]
    assert keys == ["hardware.processes", "hardware", str(tmp_path), "hardware.vllm_server", "verifier.base_url"]
    with pytest.raises(PreflightError) as error:
        check_start(config, folder=tmp_path)
    assert "verifier" not in str(error.value)


def test_a_run_on_a_cpu_asks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "installed_gpus", lambda: pytest.fail("asked for GPUs"))
    check_start(_config(), folder=tmp_path, disk_gb=1e-6, asks_verifier=True)


def test_a_login_node_leaves_its_gpus_to_the_jobs(
    cards: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cards()
    monkeypatch.delenv(preflight._NEEDED_MEMORY, raising=False)
    config = _config(device="cuda", hardware={"processes": 2})
    with pytest.raises(PreflightError, match="found 0 GPUs, expected at least 2"):
        check_start(config, folder=tmp_path, memory_gb=61.0)
    # Set for good by the call, as for the jobs of a real start; taken back after the test.
    monkeypatch.setenv(preflight._NEEDED_MEMORY, "")
    check_start(config, folder=tmp_path, memory_gb=61.0, jobs_elsewhere=True)
    check_job(config, 2)

    monkeypatch.setenv("SLURM_JOB_ID", "1")
    check_job(config, 0)
    cards(H100, H100)
    check_job(config, 2)
    cards(H100, OLD_CARD)
    with pytest.raises(PreflightError) as error:
        check_job(config, 2)
    memory, driver = str(error.value).splitlines()
    assert memory.startswith(f"{platform.node()}: hardware: a GPU has 26 GB, the run needs about 61 GB")
    assert driver.startswith(f"{platform.node()}: driver: found NVIDIA driver 535")


def test_a_cluster_s_gpus_are_not_looked_for_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(preflight._NEEDED_MEMORY, "")
    monkeypatch.setattr(preflight, "installed_gpus", lambda: pytest.fail("asked for GPUs"))
    config = _config(device="cuda", hardware={"processes": 2, "memory_gb": 40.0, "disk_gb": 1e6})
    with pytest.raises(PreflightError) as error:
        check_start(config, folder=tmp_path, memory_gb=61.0, jobs_elsewhere=True)
    memory, disk = str(error.value).splitlines()
    assert memory.startswith("hardware: a GPU has 40 GB, the run needs about 61 GB")
    # The disk is the cluster's too.
    assert disk.startswith(f"{tmp_path}: found")


def test_problems_are_collected() -> None:
    def fail(text: str) -> None:
        raise PreflightError(text)

    with pytest.raises(PreflightError, match=r"^one\ntwo$"):
        report_problems(partial(fail, "one"), lambda: None, partial(fail, "two"))
    report_problems(lambda: None)
