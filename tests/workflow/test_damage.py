"""A run whose artefacts were damaged says so and stops; the same command makes them again."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from iapo.artifacts.code_digest import ROOT

SNAKEFILE = """
configfile: "test.yaml"


rule show_table:
    input: "results/test/tables/main.csv"
    output: "results/table.csv"
    log: "results/test/logs/show_table.log"
    shell: "({sys.executable} -m iapo.jobs.recorded_inputs {input} && cp {input} {output}) 2> {log}"


rule make_tables:
    input: "results/test/train/iapo/seed0/model/model.safetensors"
    output: table="results/test/tables/main.csv", record="results/test/tables/main.run.json"
    log: "results/test/logs/make_tables.log"
    params: settings={}
    script: "make.py"


rule train_policy_0:
    output:
        weights="results/test/train/{method}/seed0/model/model.safetensors",
        record="results/test/train/{method}/seed0/model.run.json",
    log: "results/test/logs/train/{method}.log"
    params: settings={}
    script: "make.py"
"""
SCRIPT = """
from pathlib import Path
from iapo.jobs.workflow_job import job

with job(snakemake) as run:
    made = Path(snakemake.output[0])
    if made.name == "model.safetensors":
        made.with_name("tokenizer.json").write_text("a vocabulary")
    made.write_text("0.5" if not snakemake.input else Path(snakemake.input[0]).read_text())
    run.write_record(Path(snakemake.output.record), inputs={}, seeds={})
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "Snakefile").write_text(f"import sys\n{SNAKEFILE}")
    (tmp_path / "make.py").write_text(SCRIPT)
    (tmp_path / "test.yaml").write_text("profile: test\n")
    return tmp_path


def run(folder: Path) -> tuple[int, str]:
    """Status, and what the run printed."""
    profile = ("--workflow-profile", str(ROOT / "profiles/default"))
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "1", *profile],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("damaged", "made_again"),
    [
        ("results/test/train/iapo/seed0/model/model.safetensors", "trained iapo, seed 0"),
        ("results/test/train/iapo/seed0/model/tokenizer.json", "trained iapo, seed 0"),
        ("results/test/tables/main.csv", "made tables and figures"),
    ],
)
def test_the_same_command_makes_what_was_damaged_again(folder: Path, damaged: str, made_again: str) -> None:
    status, said = run(folder)
    assert status == 0, said
    table = (folder / "results/table.csv").read_bytes()
    whole = (folder / damaged).read_bytes()
    (folder / damaged).write_bytes(whole[:-1] + b"!")
    # Whatever is beside it: its job is to read it now.
    for reader in ("results/table.csv", "results/test/tables/main.csv"):
        if reader != damaged:
            (folder / reader).unlink()
    status, said = run(folder)
    assert status == 1 and f"error: {damaged}: found sha256 " in said and "Traceback" not in said, said
    assert not (folder / "results/table.csv").exists()
    status, said = run(folder)
    assert status == 0 and made_again in said, said
    assert (folder / damaged).read_bytes() == whole and (folder / "results/table.csv").read_bytes() == table


def test_a_record_that_is_gone_comes_back_with_what_it_lists(folder: Path) -> None:
    assert run(folder)[0] == 0
    weights, record = (folder / "results/test/train/iapo/seed0" / name for name in ("model", "model.run.json"))
    record.unlink()
    for made in ("results/table.csv", "results/test/tables/main.csv"):
        (folder / made).unlink()
    status, said = run(folder)
    assert status == 1 and "model.safetensors: found no run record" in said and "Traceback" not in said, said
    (weights / "model.safetensors").unlink()
    status, said = run(folder)
    assert status == 0 and record.exists(), said
