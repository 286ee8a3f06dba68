"""Which GPUs this machine has, and which of them a job may use. No torch.

Snakemake counts GPUs and never says which: without a claim, two jobs side by side would both take the first.
"""

from __future__ import annotations

import logging
import os
import subprocess
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from filelock import FileLock

from iapo.artifacts.files import lock_until_exit

_log = logging.getLogger(__name__)
_claimed: list[str] = []
"""GPUs that this process holds until it ends."""
_LOOK_AGAIN_SECONDS = 2.0
_REMIND_SECONDS = 300.0


class GpuError(RuntimeError):
    """There are not enough GPUs; the message says what was found, what is needed and what to do."""


@dataclass(frozen=True)
class Gpu:
    """One GPU of this machine."""

    index: str
    """In the order of the PCI bus, as ``nvidia-smi`` counts."""
    uuid: str
    memory_gb: float | None
    """GB (1e9 bytes); None where only the device file is there."""
    driver: str | None
    """Version of the NVIDIA driver."""


def installed_gpus() -> list[Gpu]:
    """What ``nvidia-smi`` lists; by the driver's device files where that program is missing; none where both are.

    Raises:
        GpuError: where ``nvidia-smi`` is there and fails.
    """
    columns = "index,uuid,memory.total,driver_version"
    try:
        listed = subprocess.run(
            ["nvidia-smi", f"--query-gpu={columns}", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout
    except FileNotFoundError:
        files = sorted(Path("/dev").glob("nvidia[0-9]*"), key=lambda path: int(path.name.removeprefix("nvidia")))
        return [Gpu(path.name.removeprefix("nvidia"), path.name, None, None) for path in files]
    except subprocess.CalledProcessError as error:
        if "No devices were found" in error.stdout + error.stderr:
            return []
        raise GpuError(
            f"nvidia-smi failed: {(error.stderr or error.stdout).strip() or f'status {error.returncode}'}; "
            "the NVIDIA driver is not in order: reload or reinstall it, or restart the machine"
        ) from error
    except subprocess.TimeoutExpired:
        raise GpuError("nvidia-smi did not answer within a minute; a GPU hangs: restart the machine") from None
    rows = [[cell.strip() for cell in line.split(",")] for line in listed.splitlines() if line.count(",") == 3]
    return [Gpu(index, uuid, _gigabytes(mebibytes), driver) for index, uuid, mebibytes, driver in rows]


def _gigabytes(mebibytes: str) -> float | None:
    """``81559`` → 85.5; what a card with shared memory reports (``[N/A]``) → None."""
    return int(mebibytes) * 2**20 / 1e9 if mebibytes.isdigit() else None


def visible_gpus(installed: Sequence[Gpu]) -> list[str]:
    """What this process may use, as ``CUDA_VISIBLE_DEVICES`` has it: indices, or whatever is set there.

    Args:
        installed: what to count where the variable is not set.
    """
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return [gpu.index for gpu in installed]
    names = [name.strip() for name in chosen.split(",")]
    # CUDA ignores what follows an invalid entry, and -1 is how people hide the rest.
    end = next((i for i, name in enumerate(names) if not name or name.startswith("-")), len(names))
    return names[:end]


def claim_gpus(count: int, pool: Sequence[str] | None = None, folder: Path | None = None) -> list[str]:
    """Take GPUs for this process until it ends, waiting until enough are free, and hide all others from it.

    All or none are taken, so that jobs which each hold a part never wait for each other. The system frees them when
    the process ends, however it ends. Under Slurm the scheduler has chosen, and only what it gave is shared out, among
    the jobs of one allocation: mostly a single one that takes all.

    Args:
        count: how many; 0 does nothing.
        pool: names as in ``CUDA_VISIBLE_DEVICES``; that variable's, or else all of the machine, when absent.
        folder: of the locks; this user's own in the temporary folder when absent.

    Returns:
        The claimed names; ``CUDA_VISIBLE_DEVICES`` is set to them.

    Raises:
        GpuError: where the pool is smaller than ``count``.
        RuntimeError: where this process has claimed GPUs already.
    """
    if count == 0:
        return []
    if _claimed:
        raise RuntimeError("this process has claimed its GPUs already; a second claim would wait for the first")
    if pool is None:
        pool = _pool()
    if len(pool) < count:
        raise GpuError(
            f"found {len(pool)} GPUs ({', '.join(pool) or 'none'}), the job needs {count}; lower "
            "`hardware.processes`, or use a machine with more (CUDA_VISIBLE_DEVICES, where set, limits them)"
        )
    claimed = _wait_for(count, pool, folder or _own_folder())
    if "CUDA_VISIBLE_DEVICES" not in os.environ:
        # The names are nvidia-smi's; CUDA would count the fastest card first.
        os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(claimed)
    _log.info("claimed GPU %s of %s", ", ".join(claimed), ", ".join(pool))
    return claimed


def _pool() -> list[str]:
    """Asks for the installed GPUs only where it must, since that takes a second."""
    return visible_gpus([] if "CUDA_VISIBLE_DEVICES" in os.environ else installed_gpus())


def _own_folder() -> Path:
    """Where this user's claims are; an allocation of Slurm has a folder of its own, since each may count from 0."""
    allocation = os.environ.get("SLURM_JOB_ID")
    return Path(tempfile.gettempdir()) / f"iapo-gpus-{os.getuid()}{f'-{allocation}' if allocation else ''}"


def _wait_for(count: int, pool: Sequence[str], folder: Path) -> list[str]:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    reminded = -_REMIND_SECONDS
    while True:
        free = _lock_free(count, pool, folder)
        if len(free) == count:
            _claimed.extend(free)
            return list(free)
        if time.monotonic() - reminded >= _REMIND_SECONDS:
            reminded = time.monotonic()
            claimants = ", ".join(_claimants(set(pool) - set(free), folder))
            _log.info(
                "waiting for %d free GPUs of %s: found %d; the others are claimed by process %s",
                *(count, ", ".join(pool), len(free), claimants),
            )
        time.sleep(_LOOK_AGAIN_SECONDS)


def _lock_free(count: int, pool: Sequence[str], folder: Path) -> dict[str, int]:
    """The first free GPUs and their locks; where they are too few, the locks are given back."""
    locked: dict[str, int] = {}
    # One process looks at a time, or two could take one half each for a moment, again and again.
    with FileLock(folder / "looking.lock", mode=0o600):
        for name in pool:
            lock = lock_until_exit(_lock_file(name, folder), mode=0o600)
            if lock is not None:
                locked[name] = lock
            if len(locked) == count:
                return locked
        for lock in locked.values():
            os.close(lock)
    return locked


def _lock_file(name: str, folder: Path) -> Path:
    return folder / f"gpu-{quote(name, safe='')}.lock"


def _claimants(names: Iterable[str], folder: Path) -> list[str]:
    """Numbers of the processes that hold these GPUs."""
    return sorted({_lock_file(name, folder).read_text() for name in names})
