"""Results without Snakemake's own folder get their params back from their run records."""

import json
from pathlib import Path

import pytest
from snakemake.persistence.file import FilePersistence

from iapo.jobs.copied_results import age_other_table, restore_metadata

PARAMS = ["'abc'", "{'train.steps': 3}"]


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two outputs of one job, one of them missing, and a record of older code that names no plan."""
    monkeypatch.chdir(tmp_path)
    folder = Path("results/test")
    folder.mkdir(parents=True)
    (folder / "model").write_text("weights")
    plan = {"rule": "train", "outputs": [f"{folder}/model", f"{folder}/gone"], "params": PARAMS}
    (folder / "model.run.json").write_text(json.dumps({"plan": plan}))
    (folder / "old.run.json").write_text(json.dumps({"commit": "abc"}))
    return folder


def stored(output: str) -> list[str] | None:
    record = FilePersistence(nolock=True, path=Path(".snakemake"))._read_record(output)
    return record.params if record else None


def test_params_are_given_back_where_snakemake_knows_none(results: Path) -> None:
    assert restore_metadata(results) == 1
    assert stored(f"{results}/model") == PARAMS and stored(f"{results}/gone") is None


def test_what_snakemake_knows_stays(results: Path) -> None:
    restore_metadata(results)
    record = json.loads((results / "model.run.json").read_text())
    record["plan"]["params"] = ["'other'"]
    (results / "model.run.json").write_text(json.dumps(record))
    assert restore_metadata(results) == 0 and stored(f"{results}/model") == PARAMS


def test_a_folder_without_results_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert restore_metadata(Path("results/none")) == 0


def test_the_table_of_another_profile_is_shown_again_though_it_is_newer(tmp_path: Path) -> None:
    own, shown = tmp_path / "mini/tables/main.csv", tmp_path / "table.csv"
    own.parent.mkdir(parents=True)
    own.write_text("mini")
    shown.write_text("mini")
    age_other_table(tmp_path / "mini", shown)
    assert shown.stat().st_mtime > 0
    shown.write_text("smoke")
    age_other_table(tmp_path / "mini", shown)
    assert shown.stat().st_mtime == 0 and shown.read_text() == "smoke"
    age_other_table(tmp_path / "none", tmp_path / "no_table.csv")
