"""Runs the checks: ``python -m benchmarks.gpu_check [--tiny] [--only a,b] [--out FILE]``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from benchmarks.gpu_check.card import card_name, file_stem, write_card
from benchmarks.gpu_check.checks import CHECKS
from benchmarks.gpu_check.runner import ROOT, identity_of, jobs, read_lines, run_all
from benchmarks.gpu_check.throughput import versions

WORK = ROOT / "build" / "gpu_check"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the checks that the command line asks for; 1 where one failed or ran out of time, 0 otherwise."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="tiny shapes on the CPU")
    parser.add_argument("--only", default="", help="letters or names of checks, separated by commas")
    parser.add_argument("--out", type=Path, help="JSON lines, one a check; the card's file is written beside it")
    options = parser.parse_args(arguments)
    scale = "tiny" if options.tiny else "real"
    card = "cpu" if options.tiny else card_name()
    if card == "cpu" and not options.tiny:
        parser.error("found no GPU; --tiny runs the checks in tiny shapes on the CPU")
    asked = options.only.split(",") if options.only else []
    chosen = [check for check in CHECKS if not asked or {check.group, check.name} & set(asked)]
    if unknown := set(asked) - {name for check in CHECKS for name in (check.group, check.name)}:
        parser.error(f"found no check {', '.join(sorted(unknown))}; {', '.join(f'{c.group} {c.name}' for c in CHECKS)}")
    stem = file_stem(card)
    lines = options.out or WORK / f"{stem}.jsonl"
    summary = ROOT / "results" / "reference" / f"{stem}.json"
    if options.out or options.tiny:
        summary = lines.with_suffix(".json")
    work = WORK / lines.stem
    identity = identity_of(versions(), scale, card)
    rows: list[dict[str, Any]] = []
    for job in jobs([(check.name, check.seconds) for check in chosen], scale, work):
        rows += run_all([job], lines, identity)
        # After each, so that a cut leaves what there is.
        write_card(summary, card, scale, _latest(lines, identity))
    print(_table(rows))
    print(f"written to {lines} and {summary}")
    return int(any(row["status"] not in ("passed", "skipped") for row in rows))


def _latest(lines: Path, identity: str) -> list[dict[str, Any]]:
    """Return the last outcome of each check, also of those that were not asked for this time."""
    return list({row["check"]: row for row in read_lines(lines) if row["identity"] == identity}.values())


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    return tabulate(
        [(row["check"], row["status"], row["seconds"], _why(row)) for row in rows],
        headers=("check", "status", "seconds", "bounds"),
        floatfmt=".1f",
    )


def _why(row: Mapping[str, Any]) -> str:
    """Return the reason of an outcome without figures, or the bounds of one with them."""
    if reason := row.get("reason"):
        return str(reason).splitlines()[-1][:100]
    found = row.get("bounds", {}).items()
    return "; ".join(f"{name} {_number(each['found'])} ≤ {each['at_most']:g}" for name, each in found)


def _number(value: float | None) -> str:
    return "no number" if value is None else f"{value:.2g}"


if __name__ == "__main__":
    raise SystemExit(main())
