"""What became of a fault, and the table of all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from tabulate import tabulate

from tests.faults.clone import Footprint

_RUNS_OF_AN_END = 10
"""Runs at the beginning and at the end whose medians are compared."""


_GROWTH = 1.2
"""Factor over the first runs from which the last ones hold more."""


@dataclass(frozen=True)
class Verdict:
    """One fault that was tried."""

    kind: str
    """A row of the table."""
    lost: str = ""
    """What was lost; empty where nothing was."""
    how: str = ""
    """How it was survived, where there are several ways."""


def of_kill(kind: str, *, orphans: int, printed: str, refused: bool) -> Verdict:
    """Judge a kill by what was left of the run, and by whether the next could start.

    Args:
        kind: of the kill.
        orphans: processes that were left.
        printed: by the run that was killed.
        refused: whether the next run found a lock.
    """
    faults = [
        f"{orphans} orphans" if orphans else "",
        "a traceback" if "Traceback" in printed else "",
        "a stuck lock" if refused else "",
    ]
    return Verdict(kind, ", ".join(filter(None, faults)))


def of_full_disk(*, status: int, printed: str) -> Verdict:
    """Judge how a run ended whose disk was filled."""
    if status == 0:
        return Verdict("disk full", how="ended before it wrote as much")
    said = "no space left on the disk" in printed
    faults = ["" if said else "no message", "a traceback" if "Traceback" in printed else ""]
    return Verdict("disk full", ", ".join(filter(None, faults)), how="message" if said else "")


def of_damage(kind: str, *, status: int, named: bool, still_damaged: bool, same_table: bool) -> Verdict:
    """Judge a damage by the same command's end.

    Args:
        kind: of damage.
        status: of the command.
        named: whether the file is named in what was printed.
        still_damaged: whether the file is as the damage left it.
        same_table: whether the table has the bytes of the undisturbed run's.
    """
    if status:
        return Verdict(kind, how="named") if named else Verdict(kind, "stopped and did not name the file")
    if not same_table:
        return Verdict(kind, "another table")
    if not still_damaged:
        return Verdict(kind, how="rebuilt")
    return Verdict(kind, how="named") if named else Verdict(kind, "used in silence")


def of_footprints(footprints: Sequence[Footprint]) -> Verdict:
    """Judge whether the main process holds more in the last runs of many than in the first."""
    ends = footprints[:_RUNS_OF_AN_END], footprints[-_RUNS_OF_AN_END:]
    memory = [median(each.memory_mb for each in end) for end in ends]
    files = [median(each.files for each in end) for end in ends]
    grown = memory[1] > _GROWTH * memory[0] or files[1] > _GROWTH * files[0]
    held = (
        f"memory {memory[0]:.0f} to {memory[1]:.0f} MB, open files {files[0]:.0f} to {files[1]:.0f} "
        f"in {len(footprints)} runs"
    )
    return Verdict("the main process holds no more", held if grown else "", held)


def report(verdicts: Sequence[Verdict]) -> str:
    """The table: one row a kind."""
    rows = []
    for kind in dict.fromkeys(each.kind for each in verdicts):
        of_kind = [each for each in verdicts if each.kind == kind]
        lost = [each.lost for each in of_kind if each.lost]
        words = ", ".join(dict.fromkeys([*lost, *(each.how for each in of_kind if each.how and not each.lost)]))
        rows.append((kind, len(of_kind), len(of_kind) - len(lost), len(lost), words))
    return tabulate(rows, headers=("fault", "tried", "survived", "lost", "how"))
