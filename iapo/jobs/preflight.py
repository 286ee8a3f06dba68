"""What is checked before the first job, so that nothing is found out after hours. No torch."""

from __future__ import annotations

import difflib
import importlib.util
import json
import os
import platform
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from pathlib import Path

from iapo.artifacts.code_digest import ROOT
from iapo.artifacts.files import lock_until_exit
from iapo.artifacts.secrets import KeyFormatError, one_line, read_key, redacted
from iapo.config.conflicts import is_other_row
from iapo.config.method import VerifierConfig
from iapo.config.schema import Config
from iapo.jobs.gpu_lock import Gpu, GpuError, installed_gpus, visible_gpus

_MIN_DRIVER = {11: 450, 12: 525, 13: 580}
"""CUDA's major version → first branch of the NVIDIA driver that runs it, its minor versions included
(docs.nvidia.com/deploy/cuda-compatibility, minor version compatibility)."""


_INSTALL_GPU = "install it with `.venv/bin/uv pip install -e '.[gpu]'`"


_ANSWER_SECONDS = 20.0
"""Longest wait for a server that is asked whether it is there."""


_NEEDED_MEMORY = "IAPO_GPU_MEMORY_GB"
"""Environment variable that tells the jobs what was estimated where the run was started; Slurm hands it on."""


class PreflightError(RuntimeError):
    """The run cannot start; the message says what was found, what is needed and what to do."""


def check_methods(config: Config, known: Iterable[str]) -> None:
    """Every configured method, and what each variant is a variant of, has an entry in the table of methods."""
    names = sorted(known)
    variants = config.all_variants
    wanted = [variants[name].method if name in variants else name for name in [*config.methods, *config.ablated]]
    for method in wanted:
        if method not in names:
            near = difflib.get_close_matches(method, names, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise PreflightError(
                f"methods: found {method!r}; {hint}known methods: {', '.join(names)}; {_what_is_missing(method)}"
            )
    for name in sorted(name for name in config.methods if name in config.released or is_other_row(name)):
        raise PreflightError(f"methods: found {name!r}, the name of a row that no method trains; choose another")


def _what_is_missing(method: str) -> str:
    """What a method that nobody knows needs, to be one: a file, or a name in the file that is there."""
    file = f"baselines/{method}.py"
    if (ROOT / file).exists():
        return f"{file} is there, and no Method at its top level has name={method!r}; give it one"
    return f"for one of your own: `python -m baselines.new_reward {method}` writes {file} (docs/add_a_reward.md)"


def check_tracker(config: Config) -> None:
    """The package of the tracker that the run reports to is installed."""
    tracker = config.train.report_to
    if tracker and importlib.util.find_spec(tracker) is None:
        raise PreflightError(
            f"train.report_to: found {tracker} without the package {tracker}; install it with `.venv/bin/uv pip "
            f"install {tracker}`, or leave the setting out"
        )


LOCK = ".run.lock"
"""File in a folder of results that the run which writes there holds."""


def claim_results(directory: Path) -> None:
    """Hold ``directory`` for this process: two runs at once would overwrite each other's files.

    The system frees the lock when the process ends, however it ends.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / LOCK
    if lock_until_exit(path) is None:
        holder = path.read_text() or "unknown"
        raise PreflightError(f"{directory} is in use by another run (process {holder}); wait for it to end, or stop it")


def check_start(
    config: Config,
    *,
    folder: Path,
    memory_gb: float | None = None,
    disk_gb: float | None = None,
    asks_verifier: bool = False,
    jobs_elsewhere: bool = False,
) -> None:
    """All that a run needs of the machine, said at once. Not for a dry run: it asks servers.

    Args:
        config: of the run.
        folder: on the disk that the run writes to.
        memory_gb: that its largest job needs of each GPU, GB; None where nobody knows.
        disk_gb: that it will write, GB; None where nobody knows. ``hardware.disk_gb`` comes before it.
        asks_verifier: whether a method of the run asks the verifier.
        jobs_elsewhere: whether a cluster runs the jobs, whose GPUs cannot be seen from here: each job looks at its own
            (:func:`check_job`), and only the memory that the configuration names is compared here. ``memory_gb`` is
            left in this process's environment for them.

    Raises:
        PreflightError: one line per problem.
    """
    checks: list[Callable[[], object]] = [partial(check_packages, config)]
    if config.device == "cuda" and not jobs_elsewhere:
        checks.append(partial(check_gpus, config.hardware.processes, memory_gb, config.hardware.memory_gb))
    elif config.device == "cuda":
        checks.append(partial(_check_memory, [], memory_gb, config.hardware.memory_gb))
        if memory_gb:
            os.environ[_NEEDED_MEMORY] = str(memory_gb)
    needed_gb = config.hardware.disk_gb or disk_gb
    if needed_gb:
        checks.append(partial(check_disk, folder, needed_gb))
    if "vllm_server" in _rollouts(config):
        checks.append(partial(check_server, "hardware.vllm_server", config.hardware.vllm_server))
    if asks_verifier and config.verifier.kind == "server":
        checks.append(partial(check_verifier, config.verifier))
    report_problems(*checks)


def check_job(config: Config, gpus: int) -> None:
    """The GPUs that a job of a cluster was given will do; called by the job, on the machine that it was sent to.

    Elsewhere :func:`check_start` has looked at the same machine.

    Args:
        config: of the run.
        gpus: that the job asked for; 0 checks nothing.

    Raises:
        PreflightError: one line per problem, each with the machine's name.
    """
    if gpus == 0 or "SLURM_JOB_ID" not in os.environ:
        return
    needed_gb = os.environ.get(_NEEDED_MEMORY)
    try:
        check_gpus(gpus, float(needed_gb) if needed_gb else None, config.hardware.memory_gb)
    except PreflightError as error:
        raise PreflightError("\n".join(f"{platform.node()}: {line}" for line in str(error).splitlines())) from None


def report_problems(*checks: Callable[[], object]) -> None:
    """Run every check and raise what all of them found.

    Raises:
        PreflightError: one line per problem.
    """
    problems = []
    for check in checks:
        try:
            check()
        except PreflightError as error:
            problems.append(str(error))
    if problems:
        raise PreflightError("\n".join(problems))


def check_gpus(processes: int, needed_gb: float | None, configured_gb: float | None) -> None:
    """There are as many GPUs as a job has processes, with enough memory and a driver that this torch can use.

    Args:
        processes: of the largest job.
        needed_gb: memory that it needs of each GPU, GB; None where nobody knows.
        configured_gb: memory of a GPU by the configuration, GB; None asks the driver.
    """
    try:
        installed = installed_gpus()
    except GpuError as error:
        raise PreflightError(f"device: {error}") from None
    names = visible_gpus(installed)
    if names and not installed:
        raise PreflightError(
            f"device: found no NVIDIA GPU, CUDA_VISIBLE_DEVICES names {', '.join(names)}; correct the variable or, "
            "where a scheduler set it, have the machine's driver repaired and leave the machine out until then"
        )
    gpus = [gpu for gpu in installed if gpu.index in names or gpu.uuid in names]
    report_problems(
        partial(_check_count, names, processes),
        partial(_check_memory, gpus, needed_gb, configured_gb),
        partial(_check_driver, gpus),
    )


def _check_count(names: Sequence[str], processes: int) -> None:
    if len(names) < processes:
        limit = " (CUDA_VISIBLE_DEVICES limits them)" if "CUDA_VISIBLE_DEVICES" in os.environ else ""
        raise PreflightError(
            f"hardware.processes: found {len(names)} GPUs{limit}, expected at least {processes}; lower it, or run on a "
            "machine with more"
        )


def _check_memory(gpus: Sequence[Gpu], needed_gb: float | None, configured_gb: float | None) -> None:
    known = [gpu.memory_gb for gpu in gpus if gpu.memory_gb is not None]
    found = configured_gb or min(known, default=None)
    if needed_gb and found and found < needed_gb:
        raise PreflightError(
            f"hardware: a GPU has {found:.0f} GB, the run needs about {needed_gb:.0f} GB of each (docs/estimate.md); "
            "use more `processes` with `strategy: fsdp2`, `checkpoint_activations: true`, fewer "
            "`rollouts_per_forward`, adapters (`lora_rank`), a smaller `attribution.tokens_per_forward` or `max_pixels`"
        )


def _check_driver(gpus: Sequence[Gpu]) -> None:
    cuda = _cuda_of_torch()
    if cuda is None:
        raise PreflightError(
            "torch: the installed build has no CUDA, the profile asks for `device: cuda`; install the one of "
            "requirements.lock, which has"
        )
    least = _MIN_DRIVER.get(int(cuda.partition(".")[0]), 0)
    for gpu in gpus:
        if gpu.driver and int(gpu.driver.partition(".")[0]) < least:
            raise PreflightError(
                f"driver: found NVIDIA driver {gpu.driver}, this torch is built for CUDA {cuda} and needs {least} or "
                "newer; have the driver updated, or install a torch for an older CUDA"
            )


def _cuda_of_torch() -> str | None:
    """The CUDA version that the installed torch is built for, read without importing it; None for a CPU build."""
    torch = importlib.util.find_spec("torch")
    if torch is None or torch.origin is None:
        return None
    found = re.search(r"^cuda\b[^=]*= '([\d.]+)'", Path(torch.origin).with_name("version.py").read_text(), re.MULTILINE)
    return found[1] if found else None


def check_packages(config: Config) -> None:
    """Packages that the settings ask for are installed, and the settings fit the device."""
    report_problems(
        partial(_check_package, "vllm", _rollouts(config) & {"vllm_colocate", "vllm_server"}, "train.rollouts"),
        partial(_check_package, "vllm", {config.evaluation.engine} & {"vllm"}, "evaluation.engine"),
        partial(_check_package, "deepspeed", {config.hardware.strategy} & {"zero2"}, "hardware.strategy"),
        partial(_check_strategy, config),
    )


def _check_package(package: str, asked_by: AbstractSet[str], key: str) -> None:
    if asked_by and importlib.util.find_spec(package) is None:
        raise PreflightError(
            f"{key}: found {', '.join(sorted(asked_by))} without the package {package}; {_INSTALL_GPU}"
        )


def _check_strategy(config: Config) -> None:
    if config.hardware.strategy == "zero2" and config.device != "cuda":
        raise PreflightError(
            f"hardware.strategy: found zero2 with `device: {config.device}`; DeepSpeed shards over GPUs, so use ddp"
        )


def _rollouts(config: Config) -> set[str]:
    """Who generates, over all training runs."""
    runs = [config.train, config.teacher.train, config.student.first_stage]
    varied = [variant.settings.get("train", {}).get("rollouts") for variant in config.all_variants.values()]
    return {run.rollouts for run in runs if run} | {each for each in varied if each}


def check_disk(folder: Path, needed_gb: float) -> None:
    """There is room for what a run writes.

    Args:
        folder: where, or where it will be.
        needed_gb: GB.
    """
    there = next(path for path in [folder, *folder.absolute().parents] if path.exists())
    free_gb = shutil.disk_usage(there).free / 1e9
    if free_gb < needed_gb:
        raise PreflightError(
            f"{folder}: found {free_gb:.0f} GB of free disk, the run needs about {needed_gb:.0f} GB "
            "(docs/estimate.md); free some, take a larger disk, or set `hardware.disk_gb` where part is written already"
        )


def check_server(key: str, address: str, *, token: str = "") -> bytes:
    """A server answers, whatever it says; its answer, empty where it is none.

    Args:
        key: of the configuration that names it.
        address: asked by GET; may hold ``user:token@``.
        token: its key, where it wants one.

    Raises:
        PreflightError: for a server that does not answer in time, or refuses the key; without keys in the message.
    """
    import httpx2  # slow to import, and most runs ask no server

    from iapo.jobs.bounded_http import BoundedClient, BoundError, Deadline, ReplySizeError, split_credentials

    shown = redacted(address)
    try:
        where, auth = split_credentials(address)
        with BoundedClient(auth) as client, Deadline(_ANSWER_SECONDS).applied():
            response = client.get(where, headers={"Authorization": f"Bearer {token}"} if token else {})
    except ReplySizeError:
        return b""
    except (OSError, ValueError, BoundError, httpx2.HTTPError) as error:
        reason = one_line(str(error), token) or type(error).__name__
        raise PreflightError(f"{key}: {shown} does not answer ({reason}); start the server, or correct it") from None
    if response.status_code in (401, 403):
        raise PreflightError(f"{key}: {shown} refuses the key (status {response.status_code}); set the right one")
    return response.content if response.is_success else b""


def check_verifier(verifier: VerifierConfig) -> None:
    """The verifier's server answers and, where it lists its models, has the configured one."""
    address = f"{verifier.base_url.rstrip('/')}/models"
    try:
        answer = check_server("verifier.base_url", address, token=read_key(verifier.key_variable))
    except KeyFormatError as error:
        raise PreflightError(f"verifier.key_variable: {error}") from None
    except PreflightError as error:
        raise PreflightError(f"{error} (its key is read from {verifier.key_variable})") from None
    try:
        served = [str(model["id"]) for model in json.loads(answer)["data"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        return
    if served and verifier.model not in served:
        near = difflib.get_close_matches(verifier.model, served, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"it serves {one_line(', '.join(served[:5]))}"
        raise PreflightError(
            f"verifier.model: found {verifier.model!r}, which {redacted(verifier.base_url)} does not serve; {hint}"
        )
