"""Several processes for one training job: accelerate on GPUs, torchrun on a CPU."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from types import MappingProxyType

import yaml

from iapo.config.schema import Config
from iapo.config.sources import Strategy
from iapo.jobs.ending import in_its_grace, starter_environment

_ACCELERATE: dict[Strategy, str] = {"ddp": "multi_gpu", "fsdp2": "fsdp2", "zero2": "zero2"}
"""TRL ships a configuration of accelerate for each."""


def launch(module: str, argument: Path, config: Config) -> None:
    """Run ``python -m <module> <argument>`` in as many processes as the configuration says, and wait.

    One process is started without a launcher.

    Args:
        module: what every process runs; finds its rank in the environment.
        argument: its only argument.
        config: of the run; ``hardware`` and ``device`` decide how.

    Raises:
        RuntimeError: where a process failed; its own message is in the log above.
    """
    count = config.hardware.processes
    if count == 1:
        launch_alone(module, argument)
        return
    arguments = ["-m", *launcher(config), "-m", module, str(argument)]
    _run(arguments, f"{module} {argument}: {count} processes", launcher_environment(config))


def launch_alone(module: str, argument: Path) -> None:
    """Run ``python -m <module> <argument>`` in one process, which gives its GPU back as it ends, and wait.

    Args:
        module: what the process runs.
        argument: its only argument.

    Raises:
        RuntimeError: where the process failed; its own message is in the log above.
    """
    _run(["-m", module, str(argument)], f"{module} {argument}: its process")


def _run(arguments: list[str], what: str, environment: Mapping[str, str] = MappingProxyType({})) -> None:
    # Line by line through our own stream, which a job copies to its log.
    with subprocess.Popen(
        [sys.executable, *arguments],
        env={**starter_environment(), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as processes:
        try:
            _copy_output(processes)
        except KeyboardInterrupt:
            with in_its_grace(processes):
                _copy_output(processes)
                processes.wait()
            raise
    if processes.returncode:
        raise RuntimeError(
            f"{what} ended with status {processes.returncode}; the first error in the log above says why. The same "
            "command resumes from the last checkpoint"
        )


def _copy_output(processes: subprocess.Popen[str]) -> None:
    for line in processes.stdout or ():
        sys.stderr.write(line)


def launcher(config: Config) -> list[str]:
    """The launching module and its options.

    On a CPU accelerate would ask for MPI; torchrun sets what it reads.
    """
    count = str(config.hardware.processes)
    if config.device == "cpu":
        return ["torch.distributed.run", "--standalone", "--nproc-per-node", count]
    # Port 0: two jobs on one machine must not meet on the default port.
    return [
        "accelerate.commands.launch",
        *("--config_file", str(_accelerate_settings(config.hardware.strategy))),
        *("--num_processes", count),
        *("--main_process_port", "0"),
    ]


def launcher_environment(config: Config) -> dict[str, str]:
    """What the launched processes find in their environment besides: on a CPU, the settings by which FSDP2 shards.

    On GPUs accelerate's own launcher puts them there.
    """
    if config.device != "cpu" or config.hardware.strategy != "fsdp2":
        return {}
    settings = yaml.safe_load(_accelerate_settings("fsdp2").read_text())["fsdp_config"]
    return {"ACCELERATE_USE_FSDP": "true", **{name.upper(): str(value) for name, value in settings.items()}}


def _accelerate_settings(strategy: Strategy) -> Traversable:
    return files("trl") / "accelerate_configs" / f"{_ACCELERATE[strategy]}.yaml"
