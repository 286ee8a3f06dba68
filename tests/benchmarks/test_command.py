"""The command `iapo`: what each word stands for, what is passed on, and the status of a run."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import command, status
from benchmarks.command import OF_A_RUN, OTHERS, commands
from iapo.artifacts.code_digest import ROOT
from iapo.artifacts.files import lock_until_exit


@pytest.fixture(autouse=True)
def in_the_clone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def lines(text: str) -> list[str]:
    return [shlex.join(words) for words in commands(text.split())]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (
            "table --config seeds=[0] --cores 4",
            ["snakemake table_and_pages --cores all --config 'seeds=[0]' --cores 4"],
        ),
        (
            "table --profile smoke",
            ["snakemake table_and_pages --cores all --configfile config/smoke.yaml"],
        ),
        (
            "table --configfile config/mini.yaml mine.yaml",
            ["snakemake table_and_pages --cores all --configfile config/mini.yaml mine.yaml"],
        ),
        (
            "plan --profile paper --resources gpu=8",
            [
                "snakemake table_and_pages -n --workflow-profile profiles/paper --resources gpu=8",
                "python -m baselines.estimate --configfile config/paper.yaml",
            ],
        ),
        ("status --profile smoke", ["python -m benchmarks.status --configfile config/smoke.yaml"]),
        ("view results/mini --training", ["python -m benchmarks.viewer results/mini --training"]),
        ("explain a.csv method=iapo accuracy", ["python -m benchmarks.explain_cell a.csv method=iapo accuracy"]),
        ("new-reward short_calls", ["python -m baselines.new_reward short_calls"]),
        ("estimate --help", ["python -m baselines.estimate --help"]),
        ("gpu-check --tiny", ["python -m benchmarks.gpu_check --tiny"]),
    ],
)
def test_what_a_word_stands_for(asked: str, expected: list[str]) -> None:
    assert lines(asked) == expected


def test_table_is_what_make_runs() -> None:
    makefile = (ROOT / "Makefile").read_text()
    (made,) = re.findall(r"^table:.*\n\t\$\(BIN\)/(snakemake .*)$", makefile, flags=re.MULTILINE)
    assert sorted(lines("table")[0].split()) == sorted(made.split())


def test_a_saved_policy_is_evaluated_on_every_set_unless_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    (all_sets,) = lines(f"eval {tmp_path}")
    assert all_sets == (
        f"HF_HUB_OFFLINE=1 lmms-eval eval --model iapo --model_args pretrained={tmp_path} "
        "--include_path benchmarks/tasks --tasks iapo"
    )
    (one,) = lines(f"eval {tmp_path} --tasks iapo_h_bar --limit 2")
    assert one.endswith("--include_path benchmarks/tasks --tasks iapo_h_bar --limit 2")


@pytest.mark.parametrize("asked", ["eval", "eval nowhere", "eval --tasks iapo"])
def test_eval_without_a_policy_says_what_to_write(asked: str) -> None:
    with pytest.raises(SystemExit, match=r"expected a folder with its config\.json: iapo eval results/mini/train"):
        commands(asked.split())


def test_an_unknown_word_or_profile_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    for asked, known in (("tabel", "table"), ("table --profile minni", "mini")):
        with pytest.raises(SystemExit):
            commands(asked.split())
        assert known in capsys.readouterr().err.splitlines()[-1]


def test_the_commands_page_lists_every_word_and_its_command() -> None:
    page = (ROOT / "docs/commands.md").read_text()
    words = re.findall(r"^\| `iapo ([a-z-]+)", page, flags=re.MULTILINE)
    assert sorted(words) == sorted([*OF_A_RUN, *OTHERS])


def test_the_command_is_printed_and_becomes_the_process() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.command", "explain", "results/table.csv", "method=iapo", "accuracy"],
        capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    told, error = done.stderr.splitlines()
    assert told == "+ python -m benchmarks.explain_cell results/table.csv method=iapo accuracy"
    assert error.startswith(
        "error: found no table results/table.csv that can be explained; write results/<profile>/tables/"
    )
    assert "the cells of results/table.csv are of main" in error and done.returncode == 1


def test_a_command_that_fails_ends_the_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit) as failed:
        command.start(["python", "-c", "raise SystemExit(3)"], last=False)
    assert failed.value.code == 3
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(
        SystemExit, match=r"error: found no .*/snakemake, expected the clone's environment: `make table`"
    ):
        command.start(["snakemake", "-n"], last=True)


SUMMARY = """What the workflow prints first.
output_file\tdate\trule\tlog-file(s)\tstatus\tplan
results/table.csv\t-\tshow_table\t-\tmissing\tupdate pending
results/mini/b.parquet\t-\tevaluate_policy_0_1\t-\tok\tno update
results/mini/c.parquet\t-\tevaluate_policy_2\t-\tupdated input files\tupdate pending
results/mini/a.json\t-\tbuild_data\t-\tok\tno update
"""


def test_the_status_counts_what_is_there_and_what_is_left() -> None:
    text = status.status_text(status.read_summary(SUMMARY), {})
    rows = [line.split() for line in text.splitlines()[2:5]]
    assert rows == [["build_data", "1", "0"], ["evaluate_policy", "2", "1"], ["show_table", "0", "1"]]
    assert "results/table.csv: not there yet; of 4 files 3 are there, 2 are to be made" in text
    assert text.endswith("no run holds a folder of results")
    done = SUMMARY.replace("missing\tupdate pending", "ok\tno update")
    assert "results/table.csv: up to date" in status.status_text(status.read_summary(done), {})


def test_the_status_names_who_holds_a_folder(tmp_path: Path) -> None:
    for name in ("held", "left"):
        (tmp_path / name).mkdir()
    (tmp_path / "left/.run.lock").write_text("17")
    file = lock_until_exit(tmp_path / "held/.run.lock")
    assert file is not None
    held = status.holders(tmp_path)
    assert held == {str(tmp_path / "held"): str(os.getpid())}
    assert f"{tmp_path}/held is in use by process {os.getpid()}" in status.status_text(
        status.read_summary(SUMMARY), held
    )
    os.close(file)
    assert status.holders(tmp_path) == {}
