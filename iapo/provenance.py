"""Where an artefact comes from, and how it gets to disk whole: atomic files, hashes, run records."""

from __future__ import annotations

import ast
import contextlib
import fcntl
import hashlib
import json
import math
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

from iapo.config import Config, load_config
from iapo.gpus import claim_gpus
from iapo.preflight import check_job

ROOT = Path(__file__).resolve().parent.parent
_PACKAGES = [
    "torch",
    "transformers",
    "trl",
    "lmms-eval",
    "snakemake",
    "datasets",
    "accelerate",
    "numpy",
    "pandas",
    "pyarrow",
    "pillow",
]


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder that becomes ``path`` when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield partial
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Like :func:`atomic_write` for a folder; what was at ``path`` before is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        shutil.rmtree(path, ignore_errors=True)
        os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_json(path: Path, facts: Any) -> None:
    """Write JSON, whole or not at all; a number that is not one becomes null."""
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(_finite(facts), indent=1) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def sha256_file(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


@cache
def code_hash(*modules: str) -> str:
    """Hex digest of what some modules do, for Snakemake's ``params``.

    Comments, docstrings and layout do not count, so that wording never costs a rerun.

    Args:
        modules: dotted names of this project's modules or packages, which are not imported.
    """
    digest = hashlib.sha256()
    for module in modules:
        for path in _sources(module):
            digest.update(str(path.relative_to(ROOT)).encode())
            digest.update(_meaning(path))
    return digest.hexdigest()[:16]


def _sources(module: str) -> list[Path]:
    path = ROOT / Path(*module.split("."))
    if path.is_dir():
        return sorted([*path.rglob("*.py"), *path.rglob("*yaml")])
    if not path.with_suffix(".py").exists():
        raise ValueError(f"module {module!r} not found below {ROOT}")
    return [path.with_suffix(".py")]


def _meaning(path: Path) -> bytes:
    if path.suffix != ".py":
        return path.read_bytes()
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [item for item in body if not _is_docstring(item)] or [ast.Pass()]  # type: ignore[attr-defined]
    return ast.dump(tree).encode()


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


@contextmanager
def exclusive(directory: Path) -> Iterator[None]:
    """Hold a work folder: an orphan of a killed run may still be writing there, and is waited for."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{directory} is in use by another process; waiting for it to end", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class Job:
    """One workflow step while it runs: its configuration, and the run record it leaves."""

    def __init__(self, config: Config, threads: int) -> None:
        self.config = config
        self._threads = threads
        self._started = datetime.now(UTC)
        self._clock = time.monotonic()

    def write_record(self, path: Path, *, inputs: Mapping[str, Path], seeds: Mapping[str, int], **facts: Any) -> None:
        """Write the run record of an artefact. A job that makes several times each from the one before.

        Args:
            path: of the record, beside the artefact.
            inputs: name → file that the artefact was made from; recorded with its sha256.
            seeds: every seed used, by what it seeds.
            facts: figures worth keeping with the artefact.
        """
        record = {
            "started": self._started.isoformat(timespec="seconds"),
            "wall_seconds": round(time.monotonic() - self._clock, 1),
            "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            **_code_state(),
            "command": sys.argv,
            "inputs": {name: {"path": str(file), "sha256": sha256_file(file)} for name, file in inputs.items()},
            "seeds": dict(seeds),
            "facts": facts,
            "threads": self._threads,
            "hardware": _hardware(),
            "versions": _versions(),
            "config": asdict(self.config),
        }
        with atomic_write(path) as partial:
            partial.write_text(json.dumps(record, indent=1, default=str) + "\n")
        self._started = datetime.now(UTC)
        self._clock = time.monotonic()


@contextmanager
def job(snakemake: Any) -> Iterator[Job]:
    """The frame of every workflow script: log, environment, the GPUs that the rule asks for, configuration.

    Args:
        snakemake: the object that Snakemake hands to a script.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    if snakemake.config.get("device", "cpu") == "cpu":
        # Local data only: without it `datasets` asks the hub even for files on disk.
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    path = Path(snakemake.log[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", buffering=1) as log, _tee(log):
        if snakemake.config.get("device") == "cuda":
            # Before anything imports torch, which looks at its GPUs once.
            claim_gpus(snakemake.resources.get("gpu", 0))
        config = load_config(snakemake.config)
        check_job(config, snakemake.resources.get("gpu", 0))
        yield Job(config, snakemake.threads)


@contextmanager
def _tee(log: TextIO) -> Iterator[None]:
    """Copy what is printed to the log; an uncaught exception is printed by Python, so it is there too."""
    terminal = sys.stderr
    both = _Both(terminal, log)
    with contextlib.redirect_stdout(both), contextlib.redirect_stderr(both):
        try:
            yield
        except BaseException:
            import traceback

            traceback.print_exc(file=log)
            raise


class _Both:
    """A text stream that writes to two."""

    def __init__(self, first: TextIO, second: TextIO) -> None:
        self._streams = (first, second)
        self.encoding = "utf-8"

    def write(self, text: str) -> int:
        for stream in self._streams:
            stream.write(text)
        return len(text)

    def flush(self) -> None:
        for stream in self._streams:
            stream.flush()

    def isatty(self) -> bool:
        return False


def _code_state() -> dict[str, Any]:
    """Commit, and whether files differed from it; None outside a git checkout."""
    commit = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain")
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def _git(*arguments: str) -> str | None:
    try:
        result = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def _hardware() -> dict[str, Any]:
    facts: dict[str, Any] = {
        "machine": platform.machine(),
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
    }
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        facts["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return facts


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
