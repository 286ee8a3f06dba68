"""The fault harness itself: it damages what it says, finds what is left behind, and takes no loss for survival."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.faults import clone as clones
from tests.faults.clone import STAGES, Clone, Footprint, Stage, disk
from tests.faults.damage import DAMAGES, damage, drop_last_line, drop_last_shard, empty_digests, flip_bit, truncate
from tests.faults.kills import FULL, KINDS, plan, start_again, strike
from tests.faults.verdict import Verdict, of_damage, of_footprints, of_full_disk, of_kill, report

DIGEST = "0123456789abcdef" * 4
JOBS = """
import os, subprocess, sys, time
from pathlib import Path
log = Path("results/smoke/logs/train/x.log")
log.parent.mkdir(parents=True, exist_ok=True)
with log.open("w") as output:
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], stdout=output).wait()
"""


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clone:
    """A copy whose run is one training that sleeps."""
    monkeypatch.setattr(clones, "_COMMAND", ["-c", JOBS])
    monkeypatch.setattr(clones, "_ENDS", 2.0)
    return Clone(tmp_path / "clone")


def test_a_copy_has_the_checkout_s_files_and_no_results(clone: Clone) -> None:
    assert (clone.folder / "Snakefile").exists() and (clone.folder / "config/smoke.yaml").exists()
    assert clone.table() is None and clone.find("*") == []


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_kill_ends_something(clone: Clone, kind: str) -> None:
    training = next(stage for stage in STAGES if stage.name == "training")
    run = clone.start()
    assert run.wait_for(training) and len(run.of(training)) == 1
    (job,) = run.jobs()
    strike(run, kind, random.Random(0))
    run.ended(10)
    outlives = kind in ("kill the run", "TERM to the run", "INT to the run")
    left = clone.orphans()
    assert ([each.pid for each in left] == [job.pid]) == outlives
    assert clone.orphans() == []


def test_a_stage_that_never_runs_is_not_waited_for_for_ever(clone: Clone) -> None:
    run = clone.start()
    assert run.wait_for(STAGES[4])
    strike(run, "kill the group", random.Random(0))
    assert not run.wait_for(Stage("other", ("other/",), "other"))


def test_a_stage_that_is_done_runs_again_with_all_that_follows(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [
        clone.folder / f"results/smoke/{name}" for name in ("tuning/iapo.json", "train/iapo/seed0/model", "tables/x")
    ]
    for path in made:
        path.parent.mkdir(parents=True)
        path.write_text("made")
    run = start_again(clone, STAGES[4])
    assert [path.exists() for path in made] == [True, False, False]
    strike(run, "kill the group", random.Random(0))
    monkeypatch.setattr(clones, "_COMMAND", ["-c", "print('Nothing to be done')"])
    with pytest.raises(AssertionError, match="training was to run again:\nNothing to be done"):
        start_again(clone, STAGES[4])


def test_what_a_run_made_is_put_back(clone: Clone, tmp_path: Path) -> None:
    made = clone.folder / "results/smoke/tables/main.csv"
    for path in (made, clone.folder / ".snakemake/metadata/x"):
        path.parent.mkdir(parents=True)
        path.write_text("made")
    put_back = clone.save(tmp_path / "saved")
    clone.forget("tables")
    assert not made.exists()
    put_back()
    assert made.read_text() == "made" and (clone.folder / ".snakemake/metadata/x").exists()


def test_a_disk_is_filled_and_grows(tmp_path: Path) -> None:
    with disk(tmp_path / "results") as room:
        if room is None:
            pytest.skip("mounting is not permitted here")
        (tmp_path / "results/before").write_bytes(bytes(300_000))
        room.fill()
        with pytest.raises(OSError, match="No space left"):
            (tmp_path / "results/after").write_bytes(bytes(300_000))
        room.grow()
        (tmp_path / "results/after").write_bytes(bytes(300_000))
    assert list((tmp_path / "results").iterdir()) == []


def test_a_plan_has_fifty_kills_of_all_kinds_and_the_same_ones_by_its_seed() -> None:
    planned = plan(random.Random(3), 8, disk=True)
    assert planned == plan(random.Random(3), 8, disk=True) != plan(random.Random(4), 8, disk=True)
    counts = Counter(kind for _, kinds in planned for kind in kinds)
    assert [stage for stage, _ in planned] == list(STAGES) and counts[FULL] == len(STAGES)
    assert sum(counts[kind] for kind in KINDS) >= 50 and min(counts.values()) >= 7
    assert FULL not in {kind for _, kinds in plan(random.Random(3), 8, disk=False) for kind in kinds}


def test_damage_is_what_its_name_says_and_keeps_the_time(tmp_path: Path) -> None:
    path = tmp_path / "file"

    def damaged(content: bytes, do: object) -> bytes:
        path.write_bytes(content)
        os.utime(path, (1000, 1000))
        damage(path, do)  # type: ignore[arg-type]
        assert path.stat().st_mtime == 1000
        return path.read_bytes()

    before = bytes(range(9))
    after = damaged(before, flip_bit)
    assert len(after) == 9 and sum((a ^ b).bit_count() for a, b in zip(before, after, strict=True)) == 1
    assert damaged(before, truncate) == before[:4]
    assert damaged(b"a\n1\n2\n", drop_last_line) == b"a\n1\n"
    manifest = {"fingerprint": "x", "shards": {"a": 1, "b": 2}, "rows": [1, 2], "one": {"a": 1}}
    shorter = json.loads(damaged(json.dumps(manifest).encode(), drop_last_shard))
    assert shorter == {"fingerprint": "x", "shards": {"a": 1}, "rows": [1], "one": {"a": 1}}
    nested = json.loads(damaged(json.dumps({"files": [{"name": "x", "sha256": DIGEST}]}).encode(), empty_digests))
    assert nested == {"files": [{"name": "x", "sha256": ""}]}
    path.write_text("x")
    damage(path, Path.unlink)
    assert not path.exists()


def test_each_damage_has_a_name_of_its_own_and_is_read_again() -> None:
    names = [kind.name for kind in DAMAGES]
    assert len(set(names)) == len(names) >= 9 and all(kind.again for kind in DAMAGES)


def test_a_loss_is_not_taken_for_survival() -> None:
    def damaged(**facts: object) -> Verdict:
        whole = {"status": 0, "named": False, "still_damaged": False, "same_table": True}
        return of_damage("x", **(whole | facts))  # type: ignore[arg-type]

    assert (damaged().lost, damaged().how) == ("", "rebuilt")
    assert damaged(still_damaged=True).lost == "used in silence"
    assert damaged(still_damaged=True, named=True).how == "named"
    assert damaged(same_table=False).lost == "another table"
    assert damaged(status=1).lost == "stopped and did not name the file"
    assert damaged(status=1, named=True).lost == ""
    assert of_kill("x", orphans=0, printed="", refused=False).lost == ""
    assert of_kill("x", orphans=2, printed="Traceback", refused=True).lost == "2 orphans, a traceback, a stuck lock"
    assert of_full_disk(status=1, printed="found no space left on the disk").lost == ""
    assert of_full_disk(status=1, printed="Traceback").lost == "no message, a traceback"


def test_a_main_process_that_grows_from_run_to_run_is_a_loss() -> None:
    def verdict(memory: float, files: int) -> Verdict:
        return of_footprints([Footprint(200.0, 30)] * 15 + [Footprint(memory, files)] * 15)

    assert verdict(210.0, 32).lost == "" and verdict(210.0, 32).how == (
        "memory 200 to 210 MB, open files 30 to 32 in 30 runs"
    )
    assert verdict(260.0, 30).lost != "" and verdict(200.0, 60).lost != ""


def test_a_run_s_footprint_is_its_main_process_s(clone: Clone) -> None:
    run = clone.start()
    assert run.wait_for(STAGES[4])
    held = run.footprint()
    assert held is not None and 1 < held.memory_mb < 500 and 3 <= held.files < 100
    strike(run, "kill the group", random.Random(0))
    run.ended(10)
    assert run.footprint() is None


def test_the_table_has_a_row_a_kind() -> None:
    text = report([Verdict("a"), Verdict("a", "2 orphans"), Verdict("b", how="rebuilt")])
    assert [line.split() for line in text.splitlines()[2:]] == [
        ["a", "2", "1", "1", "2", "orphans"],
        ["b", "1", "1", "0", "rebuilt"],
    ]


def test_faults_are_not_in_the_default_run() -> None:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "tests/faults"]
    collected = subprocess.run(command, cwd=clones.ROOT, capture_output=True, text=True, check=False).stdout
    assert "test_helpers.py" in collected and "test_faults.py" not in collected
