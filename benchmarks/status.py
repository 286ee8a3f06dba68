"""What there is of a run's table, what is left to make, and who makes it: ``python -m benchmarks.status``.

Options are Snakemake's, whose ``--summary`` this counts: ``--configfile config/smoke.yaml``.
"""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from filelock import lock_descriptor
from tabulate import tabulate

from iapo.jobs.preflight import LOCK
from iapo.jobs.run_lines import kind_of

TABLE, TARGET = "results/table.csv", "table_and_pages"

Row = Mapping[str, str]
"""One file of Snakemake's summary: ``output_file``, ``rule``, ``status``, ``plan`` and others."""


def read_summary(text: str) -> list[Row]:
    """Return the files of a summary, which follows whatever the workflow itself has printed."""
    _, header, rows = text.partition("output_file\t")
    return list(csv.DictReader((header + rows).splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE))


def status_text(rows: Sequence[Row], holders: Mapping[str, str]) -> str:
    """Return the table of rules, what that comes to, and who holds which folder.

    Args:
        rows: of the summary, the table's among them.
        holders: results folder → process that holds it.
    """
    rules = list(dict.fromkeys(kind_of(row["rule"]) for row in reversed(rows)))
    counted = [(rule, *_counts([row for row in rows if kind_of(row["rule"]) == rule])) for rule in rules]
    there, left = _counts(rows)
    table = next(row for row in rows if row["output_file"] == TABLE)
    lines = [
        tabulate(counted, headers=("rule", "files there", "to be made")),
        "",
        f"{TABLE}: {_word(table)}; of {len(rows)} files {there} are there, {left} are to be made",
        *(f"{folder} is in use by process {holder}" for folder, holder in holders.items()),
    ]
    return "\n".join(lines if holders else [*lines, "no run holds a folder of results"])


def _counts(rows: Sequence[Row]) -> tuple[int, int]:
    """Return how many files are there, and how many would be made; those that are made again are both."""
    return sum(row["status"] != "missing" for row in rows), sum(row["plan"] != "no update" for row in rows)


def _word(row: Row) -> str:
    if row["status"] == "missing":
        return "not there yet"
    return "up to date" if row["plan"] == "no update" else "there, and would be made again"


def holders(results: Path) -> dict[str, str]:
    """Return the folders below ``results`` that a run holds, each with the run's process."""
    return {str(path.parent): path.read_text() for path in sorted(results.glob(f"*/{LOCK}")) if _is_held(path)}


def _is_held(path: Path) -> bool:
    # The file outlives its run, so only the system knows: a lock that can be taken is nobody's. Closing gives it back.
    with path.open() as file:
        return not lock_descriptor(file.fileno(), blocking=False)


def main(arguments: Sequence[str]) -> int:
    """Print the status of the run that Snakemake's options name; Snakemake's own status where it finds no plan."""
    program = Path(sys.executable).with_name("snakemake")
    asked = subprocess.run([program, TARGET, "--summary", *arguments], capture_output=True, text=True)
    if asked.returncode or "output_file\t" not in asked.stdout:
        print(asked.stderr.strip(), file=sys.stderr)
        return asked.returncode or 1
    print(status_text(read_summary(asked.stdout), holders(Path("results"))))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
