"""The rehearsal removes an earlier one's results, but never those of one that runs."""

import os
from pathlib import Path

import pytest

from benchmarks.rehearsal import hub
from benchmarks.rehearsal.__main__ import main
from iapo.artifacts.code_digest import ROOT
from iapo.artifacts.files import lock_until_exit
from iapo.jobs.preflight import LOCK

CONFIGS = [str(ROOT / "config" / name) for name in ("paper.yaml", "presets/rehearsal.yaml")]


def test_a_rehearsal_that_runs_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    made: list[Path] = []
    monkeypatch.setattr(hub, "make_hub", lambda folder, config: made.append(folder))
    results = tmp_path / "results/rehearsal"
    (results / "train").mkdir(parents=True)
    file = lock_until_exit(results / LOCK)
    assert file is not None
    assert main(["hub", "--configfile", *CONFIGS]) == 1
    assert (results / "train").exists() and not made and "in use by another run" in capsys.readouterr().err
    os.close(file)
    assert main(["hub", "--configfile", *CONFIGS]) == 0
    assert made and [path.name for path in results.iterdir()] == [LOCK]
