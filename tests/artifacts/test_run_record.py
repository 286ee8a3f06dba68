"""What a run record must not hold."""

from pathlib import Path

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
