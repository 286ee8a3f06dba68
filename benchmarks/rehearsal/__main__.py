"""Commands of ``make rehearsal``: ``hub`` removes an earlier rehearsal's results and creates what the run downloads,
``verdict`` checks what the run has done."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from iapo.jobs.estimate import read_config
from iapo.jobs.preflight import LOCK, PreflightError, claim_results


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the two commands; return exit status 1 if the rehearsal is incomplete."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rehearsal", description=__doc__)
    parser.add_argument("part", choices=["hub", "verdict"])
    parser.add_argument("--configfile", nargs="+", type=Path, required=True, help="the run's, then what shrinks it")
    options = parser.parse_args(arguments)
    config = read_config(options.configfile)
    results = Path("results") / config.profile
    if options.part == "hub":
        from benchmarks.rehearsal.hub import make_hub

        try:
            claim_results(results)
        except PreflightError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        for path in [path for path in results.iterdir() if path.name != LOCK]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        make_hub(Path(config.hub.address), config)
        return 0
    from benchmarks.rehearsal.verdict import padding, shortcomings

    undone = shortcomings(results, config)
    if undone:
        print("The rehearsal ran to its end and is not good:", *undone, sep="\n- ", file=sys.stderr)
        return 1
    print("The rehearsal is good: every rule ran, and calls were made, attributed, rewarded and evaluated.")
    print(padding(results, config))
    return 0


if __name__ == "__main__":
    sys.exit(main())
