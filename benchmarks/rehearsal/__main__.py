"""Commands of ``make rehearsal``: ``hub`` creates what the run downloads, ``verdict`` checks what the run has done."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from iapo.jobs.estimate import read_config


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the two commands; return exit status 1 if the rehearsal is incomplete."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rehearsal", description=__doc__)
    parser.add_argument("part", choices=["hub", "verdict"])
    parser.add_argument("--configfile", nargs="+", type=Path, required=True, help="the run's, then what shrinks it")
    options = parser.parse_args(arguments)
    config = read_config(options.configfile)
    if options.part == "hub":
        from benchmarks.rehearsal.hub import make_hub

        make_hub(Path(config.hub.address), config)
        return 0
    from benchmarks.rehearsal.verdict import shortcomings

    undone = shortcomings(Path("results") / config.profile, config)
    if undone:
        print("The rehearsal ran to its end and is not good:", *undone, sep="\n- ", file=sys.stderr)
        return 1
    print("The rehearsal is good: every rule ran, and calls were made, attributed, rewarded and evaluated.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
