"""Nothing lost: kills, damage, a full disk and two runs at once, then the same command and the same table.

``make faults``; an hour on two cores.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from iapo.artifacts.files import sha256_file
from tests.faults.clone import STAGES, Clone, disk
from tests.faults.damage import DAMAGES, Damage, damage
from tests.faults.kills import FULL, disturb, plan
from tests.faults.verdict import Verdict, of_damage, of_footprints, report

pytestmark = pytest.mark.faults

SEED = 0
KILLS_OF_A_STAGE = 8


@dataclass
class Undisturbed:
    """A finished run, and what its table has."""

    clone: Clone
    table: bytes


@pytest.fixture(scope="module")
def verdicts() -> Iterator[list[Verdict]]:
    """What was tried; printed at the end."""
    tried: list[Verdict] = []
    yield tried
    print(f"\n\n{report(tried)}\n")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, verdicts: list[Verdict]) -> Undisturbed:
    """The run without any fault but a second one that wants the same folder."""
    clone = Clone(tmp_path_factory.mktemp("undisturbed"))
    run = clone.start()
    assert run.wait_for(STAGES[0]), run.printed()
    # The second writes its own.
    first = run.output.rename(run.output.with_name("first.log"))
    second = clone.start()
    refused = second.ended(300) != 0 and f"in use by another run (process {run.process.pid})" in second.printed()
    verdicts.append(Verdict("two at once", "" if refused and "Traceback" not in second.printed() else "not refused"))
    assert run.ended() == 0, first.read_text()
    table = clone.table()
    assert table
    return Undisturbed(clone, table)


def test_kills_and_full_disks_at_every_stage_cost_nothing(
    tmp_path: Path, undisturbed: Undisturbed, verdicts: list[Verdict]
) -> None:
    rng = random.Random(SEED)
    # Snakemake's own notes lie on the disk too, as in any clone.
    with disk(tmp_path / "killed") as room:
        clone = Clone(tmp_path / "killed")
        planned, tried, held = plan(rng, KILLS_OF_A_STAGE, disk=room is not None), [], []
        if room is None:
            verdicts.append(Verdict(FULL, how="not tried: no disk can be mounted here"))
        count = sum(len(kinds) for _, kinds in planned)
        for verdict in disturb(clone, room, rng, planned, held):
            tried.append(verdict)
            verdicts.append(verdict)
            print(f"[{len(tried)}/{count}] {verdict.kind}: {verdict.lost or verdict.how or 'survived'}", flush=True)
        run = clone.start()
        status = run.ended()
        same = Verdict("the table after all of these", "" if clone.table() == undisturbed.table else "another table")
        flat = of_footprints(held)
        verdicts += [same, flat]
        assert status == 0, run.printed()
    assert len(tried) >= 50
    assert [each for each in [*tried, same, flat] if each.lost] == []


@pytest.mark.parametrize("kind", DAMAGES, ids=lambda kind: kind.name)
def test_damage_is_named_or_mended(
    tmp_path: Path, undisturbed: Undisturbed, verdicts: list[Verdict], kind: Damage
) -> None:
    clone = undisturbed.clone
    put_back = clone.save(tmp_path)
    try:
        verdict = _after(clone, kind, undisturbed.table)
    finally:
        put_back()
    verdicts.append(verdict)
    assert verdict.lost == ""


def _after(clone: Clone, kind: Damage, table: bytes) -> Verdict:
    path = clone.find(kind.pattern)[0]
    damage(path, kind.do)
    damaged = _digest(path)
    clone.forget(*kind.again)
    _forget_table(clone)
    run = clone.start()
    status = run.ended()
    named = path.name in run.said()
    verdict = of_damage(
        kind.name,
        status=status,
        named=named,
        still_damaged=_digest(path) == damaged,
        same_table=clone.table() == table,
    )
    if status == 0 or verdict.lost:
        return verdict
    # What the message asks for: without the file, it is made again.
    clone.forget(kind.mend) if kind.mend else path.unlink(missing_ok=True)
    again = clone.start()
    mended = again.ended() == 0 and clone.table() == table
    return verdict if mended else Verdict(kind.name, "named, and not mended by removing the file")


def _forget_table(clone: Clone) -> None:
    clone.forget("tables")
    (clone.folder / "results/table.csv").unlink()


def _digest(path: Path) -> str | None:
    return sha256_file(path) if path.exists() else None
