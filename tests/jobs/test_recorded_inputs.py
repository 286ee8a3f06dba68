"""What a job reads has the bytes that its run record says: what has not is named, and set aside to be made again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from iapo.artifacts.files import sha256_file
from iapo.artifacts.run_record import Job, Plan, RecordError
from iapo.config.schema import load_config
from iapo.jobs.copied_results import restore_metadata
from iapo.jobs.recorded_inputs import DamagedInputError, check_inputs

WEIGHTS = "train/iapo/seed{}/model/model.safetensors"
METRICS = "train/iapo/seed{}/metrics.csv"
JOBS: dict[str, tuple[list[str], list[str]]] = {
    # Record → declared outputs, and files that no rule declares.
    "data/manifest.run.json": (["data/manifest.json", "data/train/h_bar.parquet"], []),
    "models/student/cold/start0.run.json": (
        ["models/student/cold/start0/model.safetensors"],
        ["models/student/cold/start0/config.json"],
    ),
    "teacher/start0/cache/main.run.json": (
        ["teacher/start0/cache/main.stats.json"],
        ["teacher/start0/cache/main/manifest.json", "teacher/start0/cache/main/01.parquet"],
    ),
    "tuning/iapo.run.json": (["tuning/iapo.json"], []),
    "eval/iapo/seed0/records.run.json": (["eval/iapo/seed0/records.parquet"], []),
    "tables/main.run.json": (["tables/main.csv", "tables/main.md", "figures/forest.png"], []),
    "downloads/qwen/fetched.run.json": (["downloads/qwen/fetched.json"], []),
}


def write(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"the content of {path}")


def run_of(outputs: list[str]) -> Job:
    config = load_config({"profile": "x"})
    return Job(config, config, Plan("train", outputs, [], [], threads=1))


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One artefact of every kind, with its record."""
    monkeypatch.chdir(tmp_path)
    for record, (declared, others) in JOBS.items():
        for name in (*declared, *others):
            write(Path(name))
        run_of([*declared, record]).write_record(Path(record), inputs={}, seeds={})
    # A job of two seeds: the first one's record is written before the second one's files.
    outputs = [name.format(seed) for name in (WEIGHTS, METRICS, "train/iapo/seed{}/model.run.json") for seed in (0, 1)]
    job = run_of(outputs)
    for seed in (0, 1):
        for name in (WEIGHTS, METRICS, "train/iapo/seed{}/model/tokenizer.json"):
            write(Path(name.format(seed)))
        job.write_record(Path(f"train/iapo/seed{seed}/model.run.json"), inputs={}, seeds={})
    # The card is written beside the policy when the table is finished.
    write(Path("train/iapo/seed0/model/README.md"))
    weights = Path("downloads/qwen/model-1.safetensors")
    write(weights)
    known = {weights.name: {"sha256": sha256_file(weights), "bytes": weights.stat().st_size}}
    run_of(JOBS["downloads/qwen/fetched.run.json"][0]).write_record(
        Path("downloads/qwen/fetched.run.json"), inputs={}, seeds={}, more_outputs=known
    )
    return tmp_path


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


READ = {
    # Input of a rule → what is read with it.
    "data/manifest.json": "data/train/h_bar.parquet",
    "models/student/cold/start0/model.safetensors": "models/student/cold/start0/config.json",
    WEIGHTS.format(1): "train/iapo/seed1/model/tokenizer.json",
    "teacher/start0/cache/main.stats.json": "teacher/start0/cache/main/01.parquet",
    "downloads/qwen/fetched.json": "downloads/qwen/model-1.safetensors",
    METRICS.format(0): METRICS.format(0),
    "tuning/iapo.json": "tuning/iapo.json",
    "eval/iapo/seed0/records.parquet": "eval/iapo/seed0/records.parquet",
    "tables/main.md": "tables/main.md",
}


def test_what_is_as_it_was_written_passes(results: Path) -> None:
    inputs = [*map(Path, READ), *results.rglob("*.run.json")]
    before = sorted(results.rglob("*"))
    check_inputs(inputs)
    assert sorted(results.rglob("*")) == before


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink], ids=["flipped", "cut", "missing"])
@pytest.mark.parametrize(
    ("path", "damaged"), [*((each, each) for each in READ), *((of, each) for of, each in READ.items() if of != each)]
)
def test_damage_is_named_and_the_input_set_aside(
    results: Path, path: str, damaged: str, damage: Callable[[Path], None]
) -> None:
    damage(Path(damaged))
    with pytest.raises(DamagedInputError) as error:
        check_inputs([Path(path)])
    said = str(error.value)
    assert said.startswith(f"{damaged}: found ") and ", expected " in said and ".run.json" in said
    assert said.endswith("the same command makes it again") and "\n" not in said
    # So that Snakemake plans its job; the others stay.
    assert not Path(path).exists()
    assert Path(f"{path}.damaged").exists() or (damage is Path.unlink and damaged == path)
    check_inputs([Path(each) for each in READ if each != path and Path(each).parent != Path(path).parent])


def test_a_table_is_checked_without_what_lies_beside_it(results: Path) -> None:
    flip(Path(WEIGHTS.format(0)))
    check_inputs([Path(METRICS.format(0)), Path(METRICS.format(1)), Path(WEIGHTS.format(1))])


def test_what_no_record_lists_is_not_checked(results: Path) -> None:
    write(Path("benchmarks/reported.csv"))
    Path("old.run.json").write_text(json.dumps({"commit": "abc"}))
    write(Path("old.json"))
    check_inputs([Path("benchmarks/reported.csv"), Path("old.json"), Path("no_such_folder/file")])


def test_a_result_whose_record_is_gone_is_not_used_unchecked(results: Path) -> None:
    weights, record = Path("results/x/models/cold/model.safetensors"), Path("results/x/models/cold.run.json")
    write(weights)
    with pytest.raises(DamagedInputError) as error:
        check_inputs([weights])
    said = str(error.value)
    assert said.startswith(f"{weights}: found no run record that lists it, expected {record}, ")
    assert said.endswith(f"or remove {weights}, and the same command makes both again")
    # It may be whole, and have taken hours.
    assert weights.exists()
    run_of([str(weights), str(record)]).write_record(record, inputs={}, seeds={})
    check_inputs([weights, Path("results/x/not_made_yet.csv")])
    record.write_text(json.dumps({"commit": "of older code, which lists no outputs"}))
    check_inputs([weights])


def test_the_newest_record_of_a_file_counts(results: Path) -> None:
    write(Path("mechanism/iapo.parquet"))
    run_of(["mechanism/iapo.parquet"]).write_record(Path("mechanism/all.run.json"), inputs={}, seeds={})
    flip(Path("mechanism/iapo.parquet"))
    run_of(["mechanism/iapo.parquet"]).write_record(Path("mechanism/cold.run.json"), inputs={}, seeds={})
    check_inputs([Path("mechanism/iapo.parquet")])


def test_moved_results_are_checked_as_before(results: Path) -> None:
    shutil.move("train", "elsewhere")
    check_inputs([Path("elsewhere/iapo/seed0/model/model.safetensors")])
    flip(Path("elsewhere/iapo/seed0/model/tokenizer.json"))
    with pytest.raises(DamagedInputError, match=r"tokenizer\.json: found sha256"):
        check_inputs([Path("elsewhere/iapo/seed0/model/model.safetensors")])


@pytest.mark.parametrize("change", [('"threads": 1', '"threads": 2'), ("}", ""), ("{", "["), ("{", "\x00")])
def test_a_damaged_record_is_named(results: Path, change: tuple[str, str]) -> None:
    record = Path("tuning/iapo.run.json")
    old, new = change
    text = record.read_text()
    record.write_text(text.replace(old, new, 1))
    for read in (lambda: check_inputs([record]), lambda: check_inputs([Path("tuning/iapo.json")])):
        with pytest.raises(RecordError, match=r"tuning/iapo\.run\.json: expected .* found .* the same command"):
            read()
    # When the Snakefile is read, before anything is planned.
    with pytest.raises(RecordError, match=r"tuning/iapo\.run\.json"):
        restore_metadata(Path())
