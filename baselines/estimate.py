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
from iapo.jobs.estimate import estimate, estimate_text, hours_text, merge_configs, read_config
from iapo.jobs.model_sizes import UnknownModelError

GUIDE = ROOT / "docs/gpus.md"
PAPER = ROOT / "config/paper.yaml"
PRESETS = ROOT / "config/presets"
_BEGIN, _END = "<!-- costs: written by `make config` -->", "<!-- end of costs -->"

_TINY = "needs no GPU: all models are tiny, and made in the run; how long it took on two cores: docs/results.md"


@dataclass(frozen=True)
class Machine:
    """A row of the guide: a machine, and what is set for it over the profile ``paper``."""

    name: str
    told: str
    """What the reader puts behind the command."""
    presets: tuple[str, ...] = ()
    """Files of config/presets laid over the profile."""
    overlay: str = ""
    """More of it, as YAML."""
    gpus: int | None = None
    """Of the machine; as many as the largest job needs when absent."""


MACHINES = (
    Machine(
        "1 GPU", "`one_gpu.yaml`: three methods, adapters, smaller figures, the teacher as published", ("one_gpu",)
    ),
    Machine("1 small GPU", "`one_gpu.yaml small_gpu.yaml`: one seed besides", ("one_gpu", "small_gpu")),
    Machine("4 GPUs", "nothing: the profile as it is"),
    Machine(
        "4 GPUs, first look",
        "`--config seeds=[0] methods=[vtool_r1,exact_match,iapo]`",
        overlay="seeds: [0]\nmethods: [vtool_r1, exact_match, iapo]",
    ),
    Machine("8 GPUs", "`--resources gpu=8`: two trainings of four GPUs side by side", gpus=8),
    Machine("4 GPUs, VTool-R1's first code", "`vtool_r1_v1.yaml`", ("vtool_r1_v1",)),
)


def machine_table() -> str:
    """Return the guide's table: what each machine is told, and what the run then needs."""
    rows = []
    for machine in MACHINES:
        files = [PAPER, *(PRESETS / f"{preset}.yaml" for preset in machine.presets)]
        parts = [yaml.safe_load(path.read_text()) for path in files]
        overlay = yaml.safe_load(machine.overlay) if machine.overlay else {}
        found = estimate(load_config(merge_configs([*parts, overlay])), METHODS)
        hours = hours_text(*found.wall_hours(machine.gpus or found.gpus))
        rows.append(
            (machine.name, machine.told, f"{found.memory_gb:.0f} GB", f"{hours} h", f"{found.disk_gb / 1e3:.1f} TB")
        )
    headers = ("machine", "what it is told", "memory of a GPU", "time", "disk")
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
    wanted = parser.add_mutually_exclusive_group()
    wanted.add_argument("--configfile", nargs="*", type=Path, metavar="FILE", help="laid over each other")
    wanted.add_argument("--guide", action="store_true", help="write the table of docs/gpus.md again")
    parser.add_argument("--gpus", type=int, help="of the machine; the largest job's when absent")
    options = parser.parse_args(arguments)
    if not (options.configfile or options.guide):
        print("error: found no config file, expected --configfile config/paper.yaml, or more files", file=sys.stderr)
        return 2
    try:
        if options.guide:
            with atomic_write(GUIDE) as tmp:
                tmp.write_text(guide(GUIDE.read_text()))
        else:
            config = read_config(options.configfile)
            told = estimate_text(estimate(config, METHODS), options.gpus) if config.pretrained_models else _TINY
            print(told)
    except (OSError, ConfigError, UnknownModelError, ValueError) as error:
        print(f"no estimate: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
