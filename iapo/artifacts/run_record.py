"""The record beside every artefact: what made it, from which inputs, with which settings, code and machine."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from iapo.artifacts.code_digest import ROOT
from iapo.artifacts.file_facts import FileFacts, difference, facts_of
from iapo.artifacts.files import atomic_write, files_below, sha256_file
from iapo.artifacts.seal import SEAL, is_broken, seal
from iapo.artifacts.secrets import redacted
from iapo.config.declared import READ
from iapo.config.schema import Config

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


RECORD_SUFFIX = ".run.json"


class RecordError(RuntimeError):
    """A run record that is not as it was written; the message names it and says what to do."""


@dataclass(frozen=True)
class Plan:
    """What Snakemake planned a job by; enough to tell later whether its outputs are still what the code would make."""

    rule: str
    outputs: list[str]
    params: list[str]
    """The values of the rule's params as text, sorted, as Snakemake compares them."""
    settings: list[str]
    """Dotted keys of the settings that the rule declares."""
    threads: int
    code: str = ""
    """Digest of the code that decides the outputs, one of the params."""


class Job:
    """One workflow step while it runs: what it may read of the configuration, and the run record it leaves."""

    def __init__(self, declared: Config, whole: Config, plan: Plan) -> None:
        """
        Args:
            declared: holds the settings that the job's rule names, and fails on any other.
            whole: the run's configuration, kept in the record.
            plan: what Snakemake planned the job by.
        """
        self.config = declared
        self.log = logging.getLogger("iapo.workflow")
        self._whole = whole
        self._plan = plan
        self._started = datetime.now(UTC)
        self._clock = time.monotonic()

    def write_record(
        self,
        path: Path,
        *,
        inputs: Mapping[str, Path],
        seeds: Mapping[str, int],
        more_outputs: Mapping[str, FileFacts] | None = None,
        **facts: Any,
    ) -> None:
        """Write the run record of an artefact that is whole. A job that makes several times each from the one before.

        Args:
            path: of the record, beside the artefact.
            inputs: name → file that the artefact was made from; recorded with its sha256.
            seeds: every seed used, by what it seeds.
            more_outputs: path below the record's folder → what is known already of files that no rule declares.
            facts: figures worth keeping with the artefact.
        """
        record = {
            "started": self._started.isoformat(timespec="seconds"),
            "wall_seconds": round(time.monotonic() - self._clock, 1),
            "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            **_code_state(),
            # Without the way to the clone, which is of one machine, and tells its user's name.
            "command": [part.removeprefix(f"{ROOT}/") for part in sys.argv],
            "inputs": {name: {"path": str(file), "sha256": sha256_file(file)} for name, file in inputs.items()},
            "outputs": _outputs(path, self._plan.outputs) | dict(more_outputs or {}),
            "seeds": dict(seeds),
            "facts": facts,
            "threads": self._plan.threads,
            "hardware": _hardware(),
            "versions": _versions(),
            "config": asdict(self._whole),
            "plan": asdict(self._plan),
            "settings_read": sorted(READ),
        }
        written = json.loads(redacted(json.dumps(record, default=str)))
        with atomic_write(path) as tmp:
            tmp.write_text(json.dumps(seal(written), indent=1) + "\n")
        self._started = datetime.now(UTC)
        self._clock = time.monotonic()


def records_below(folder: Path) -> list[Path]:
    """Return the paths of the run records below a folder, sorted, though another run may be writing there."""
    return sorted(path for path in files_below(folder) if path.name.endswith(RECORD_SUFFIX))


def read_record(path: Path) -> dict[str, Any]:
    """Read a run record, and check it against its own digest; one of older code has none.

    Raises:
        RecordError: if it is not as it was written.
    """
    advice = "bring it back from a copy, or remove it and the outputs beside it, and the same command makes them again"
    try:
        record: dict[str, Any] = dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise RecordError(f"{path}: expected a run record, found no JSON of one ({error}); {advice}") from None
    if is_broken(record):
        raise RecordError(f"{path}: expected the run record as it was written, found another text; {advice}")
    record.pop(SEAL, None)
    return record


def difference_from_record(record: Path, file: Path) -> str | None:
    """Return how a file differs from what a run record says of it, as a part of a sentence; None if it does not, or if
    the record does not list it or is not there.

    Raises:
        RecordError: if the record is not as it was written.
    """
    if not record.exists():
        return None
    facts = read_record(record).get("outputs", {}).get(os.path.relpath(file, record.parent))
    return difference(file, facts) if facts else None


def _outputs(record: Path, declared: Sequence[str]) -> dict[str, FileFacts]:
    """Return what is known of the files that a record stands beside, by their path from the record's folder.

    Args:
        record: ``<name>.run.json``; all files of the folder ``<name>`` are outputs, where there is one.
        declared: all outputs of the job. Where it leaves several records, those in a record's own folder are its.
    """
    files = [Path(output) for output in declared if not output.endswith(RECORD_SUFFIX)]
    if len(declared) - len(files) > 1:
        files = [file for file in files if file.is_relative_to(record.parent)]
    folder = record.with_name(record.name.removesuffix(RECORD_SUFFIX))
    files += [file for file in folder.rglob("*") if not file.name.startswith(".")]
    # Snakemake says itself which declared file is missing.
    return {os.path.relpath(file, record.parent): facts_of(file) for file in sorted({*files}) if file.is_file()}


def _code_state() -> dict[str, Any]:
    """Commit, and whether files differed from it; None outside a git checkout. Digest of the locked packages."""
    commit = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain")
    lock = ROOT / "requirements.lock"
    return {
        "commit": commit,
        "dirty": None if changes is None else bool(changes),
        "lock": sha256_file(lock) if lock.exists() else None,
    }


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
