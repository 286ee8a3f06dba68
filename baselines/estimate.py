"""What a run needs, printed for some config files, and the table of machines in ``docs/gpus.md``.

``python -m baselines.estimate --configfile config/paper.yaml mine.yaml --gpus 4`` is what a run prints before its
first job; ``python -m baselines.estimate --guide`` writes the table again. docs/estimate.md has the formulas.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from tabulate import tabulate

from baselines import METHODS
from iapo.artifacts.code_digest import ROOT
from iapo.artifacts.files import atomic_write, between_marks
from iapo.config.schema import ConfigError, load_config
from iapo.jobs.estimate import estimate, estimate_text, merge_configs, read_config
from iapo.jobs.model_sizes import UnknownModelError

GUIDE = ROOT / "docs/gpus.md"
PAPER = ROOT / "config/paper.yaml"
_BEGIN, _END = "<!-- costs: written by `make config` -->", "<!-- end of costs -->"


@dataclass(frozen=True)
class Machine:
    """A row of the guide: a machine, and what is set for it over the profile ``paper``."""

    name: str
    told: str
    """What the reader puts into a file or behind the command."""
    overlay: str = ""
    """The same as YAML, where it changes the configuration."""
    gpus: int | None = None
    """Of the machine; as many as the largest job needs when absent."""


_SMALL_IMAGES = "{model: {pretrained: {max_pixels: 1003520}}}"
MACHINES = (
    Machine(
        "1 GPU",
        "`hardware: {processes: 1, strategy: ddp, lora_rank: 64, vllm_memory: 0.25}`, `max_pixels: 1003520` for both "
        "models; adapters in place of all weights",
        "hardware: {processes: 1, strategy: ddp, lora_rank: 64, vllm_memory: 0.25}\n"
        f"student: {_SMALL_IMAGES}\nteacher: {_SMALL_IMAGES}",
    ),
    Machine("4 GPUs", "nothing: the profile as it is"),
    Machine(
        "4 GPUs, first look",
        "`seeds: [0]`, `methods: [vtool_r1, exact_match, iapo]`",
        "seeds: [0]\nmethods: [vtool_r1, exact_match, iapo]",
    ),
    Machine("8 GPUs", "`--resources gpu=8` behind the target: two trainings of four GPUs side by side", gpus=8),
    Machine(
        "8 GPUs, tighter",
        "`hardware: {processes: 8}` and `--resources gpu=8`: one training over all",
        "hardware: {processes: 8}",
        gpus=8,
    ),
)


def machine_table() -> str:
    """Return the guide's table: what each machine is told, and what the run then needs."""
    rows = []
    for machine in MACHINES:
        overlay = yaml.safe_load(machine.overlay) or {} if machine.overlay else {}
        found = estimate(load_config(merge_configs([yaml.safe_load(PAPER.read_text()), overlay])), METHODS)
        hours = found.wall_hours(machine.gpus or found.gpus)
        rows.append(
            (machine.name, machine.told, f"{found.memory_gb:.0f} GB", f"{hours:.0f} h", f"{found.disk_gb / 1e3:.1f} TB")
        )
    headers = ("machine", "`mine.yaml`", "memory of a GPU", "time", "disk")
    return tabulate(rows, headers=headers, tablefmt="github")


def guide(text: str) -> str:
    """Return the guide with today's table in its place.

    Args:
        text: of the guide, with the two marks around its table.
    """
    return between_marks(text, _BEGIN, _END, machine_table())


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the estimate of some config files, or write the guide's table; status 1 where there is none."""
    parser = argparse.ArgumentParser(prog="python -m baselines.estimate", description=__doc__)
    wanted = parser.add_mutually_exclusive_group(required=True)
    wanted.add_argument("--configfile", nargs="+", type=Path, metavar="FILE", help="laid over each other")
    wanted.add_argument("--guide", action="store_true", help="write the table of docs/gpus.md again")
    parser.add_argument("--gpus", type=int, help="of the machine; the largest job's when absent")
    options = parser.parse_args(arguments)
    try:
        if options.guide:
            with atomic_write(GUIDE) as tmp:
                tmp.write_text(guide(GUIDE.read_text()))
        else:
            print(estimate_text(estimate(read_config(options.configfile), METHODS), options.gpus))
    except (OSError, ConfigError, UnknownModelError, ValueError) as error:
        print(f"no estimate: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
