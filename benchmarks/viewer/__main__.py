"""Command that writes the viewer: ``python -m benchmarks.viewer results/mini --out results/mini/view.html``.

With ``--training`` it writes the page of training's rollouts, by default ``view_training.html``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.records import RecordsError
from benchmarks.results import recorded_config
from benchmarks.viewer.training import KeptRolloutsError
from benchmarks.viewer.write import PAGE, TRAINING_PAGE, write_training_viewer, write_viewer
from iapo.artifacts.run_record import RecordError
from iapo.data.store import DataError


def main(arguments: Sequence[str] | None = None) -> str:
    """Write the page of a profile's results folder; return a line that says where it is and how large."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.viewer", description=__doc__)
    parser.add_argument("folder", type=Path, help="results/<profile> after an evaluation")
    parser.add_argument("--out", type=Path, help="the HTML file; by default in the folder")
    parser.add_argument("--training", action="store_true", help="the rollouts that trainings kept, not the test's")
    given = parser.parse_args(arguments)
    out = given.out or given.folder / (TRAINING_PAGE if given.training else PAGE)
    (write_training_viewer if given.training else write_viewer)(given.folder, recorded_config(given.folder), out)
    return f"{out}: {out.stat().st_size / 1e6:.1f} MB, opens in any browser"


if __name__ == "__main__":
    try:
        print(main())
    except (RecordsError, RecordError, DataError, KeptRolloutsError) as error:
        sys.exit(f"error: {error}")
