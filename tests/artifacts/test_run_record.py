"""What a run record must not hold."""

import json
import sys
from pathlib import Path

import pytest

from iapo.artifacts.code_digest import ROOT
from iapo.artifacts.run_record import Job, Plan
from iapo.config.schema import load_config


def test_credentials_of_an_address_reach_no_record(tmp_path: Path) -> None:
    address = "http://me:token@host:8000/v1"
    config = load_config({"profile": "x", "verifier": {"base_url": address}})
    plan = Plan("train", ["out"], [f"settings: {address}"], ["verifier"], threads=1)
    record = tmp_path / "out.run.json"
    Job(config, config, plan).write_record(record, inputs={}, seeds={}, asked=address)
    text = record.read_text()
    assert "token@" not in text and text.count("http://***@host:8000/v1") >= 3


def test_the_command_does_not_tell_where_the_clone_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [str(ROOT / ".snakemake/scripts/a.py"), "results/mini"])
    config = load_config({"profile": "x"})
    record = tmp_path / "out.run.json"
    Job(config, config, Plan("train", ["out"], [], [], threads=1)).write_record(record, inputs={}, seeds={})
    assert json.loads(record.read_text())["command"] == [".snakemake/scripts/a.py", "results/mini"]
