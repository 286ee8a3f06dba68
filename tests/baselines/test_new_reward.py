"""The recipe of docs/add_a_reward.md as it is written, in a copy of the project: one file, and everything works."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from baselines.new_reward import METHOD_FILE, NewRewardError, new_reward
from benchmarks.records_page import REWARD_PAGE, reward_columns, reward_page
from iapo.artifacts.code_digest import ROOT
from iapo.models.loading import save_model

NAME = "short_calls"


def blocks(language: str) -> list[str]:
    """The page's fenced code in a language."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```", REWARD_PAGE.read_text(), flags=re.DOTALL | re.MULTILINE)
    return [text for found, text in fenced if found == language]


def run(tree: Path, *command: str) -> str:
    """What a command says in the copy, with its own modules."""
    result = subprocess.run(
        command,
        cwd=tree,
        env=os.environ | {"PYTHONPATH": str(tree), "TRL_EXPERIMENTAL_SILENCE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, (result.stdout + result.stderr)[-3000:]
    return result.stdout


def run_python(tree: Path, code: str, *arguments: str) -> Any:
    """What a program prints last, as JSON."""
    return json.loads(run(tree, sys.executable, "-c", code, *arguments).splitlines()[-1])


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with the new reward in it, written by the page's first command."""
    copy = tmp_path_factory.mktemp("project")
    for name in ("iapo", "baselines", "benchmarks", "workflow", "config", "profiles"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Snakefile", "pyproject.toml"):
        shutil.copy2(ROOT / name, copy / name)
    command = blocks("")[0].split()
    assert command[:3] == ["python", "-m", "baselines.new_reward"]
    said = run(copy, sys.executable, *command[1:])
    assert f"make try_reward METHOD={NAME}" in said
    return copy


def test_the_page_shows_the_file_that_is_written_and_its_test_passes(tree: Path) -> None:
    (shown,) = blocks("python")
    assert (tree / f"baselines/{NAME}.py").read_text() == shown
    test = f"tests/baselines/test_{NAME}.py"
    run(tree, sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", test)
    for command in (("check",), ("format", "--check")):
        run(tree, sys.executable, "-m", "ruff", *command, "--no-cache", f"baselines/{NAME}.py", test)


def commands() -> Iterator[str]:
    """The page's calls of Snakemake, each on one line."""
    for block in blocks(""):
        text = block.replace("\\\n", " ").strip()
        if text.startswith("snakemake"):
            yield text


@pytest.mark.parametrize("command", commands())
def test_every_command_of_the_page_plans_the_new_method(tree: Path, command: str) -> None:
    planned = run(tree, "bash", "-c", f"{sys.executable} -m {command} --dry-run --forceall")
    trained = re.findall(r"^rule train_policy_.*?wildcards: method=(\w+)", planned, flags=re.DOTALL | re.MULTILINE)
    assert any(NAME in method for method in trained), trained


TRAIN = """
import json, sys
from dataclasses import asdict
from pathlib import Path

import baselines
planned_with_torch = "torch" in sys.modules

from baselines import short_calls
from baselines.run import TrainingJob, run_job
from baselines.try_reward import try_reward
from iapo.config.declared import declare
from iapo.config.schema import load_config

root, data = map(Path, sys.argv[1:3])
few = {"steps": 2, "groups_per_step": 2, "group_size": 2, "prompts_per_set": 1, "max_completion_length": 8}
config = load_config(
    {
        "profile": "sparse",
        "student": {"habits": {"rare": {"demonstrations": {}}}},
        "methods": [],
        "grids": {"g": {"methods": ["short_calls"], "settings": {"group": {}}, "starts": ["rare"]}},
        "train": few,
    }
)
given = {}
pays = short_calls.one_label

def one_label(**columns):
    given.update(columns)
    return pays(**columns)

short_calls.one_label = one_label
job = TrainingJob(
    method="short_calls", name="short_calls", seed=0, config=asdict(config), data=data,
    settings=declare(config, *baselines.METHODS["short_calls"].settings_read),
    start=root / "models/student/rare/start0", run_dir=root / "work", output=root / "out",
)
rows = run_job(job)
tried = try_reward("short_calls", config, root, prompts_per_set=1)
print(json.dumps({"torch": planned_with_torch, "rows": rows, "tried": tried, "given": sorted(given)}))
"""


def test_it_trains_and_is_tried_and_gets_the_columns_of_the_page(
    tree: Path, tmp_path: Path, data_root: Path, tiny: tuple[Any, Any]
) -> None:
    save_model(*tiny, tmp_path / "models/student/rare/start0")
    (tmp_path / "data").symlink_to(data_root)
    (tmp_path / "student_calls/rare").mkdir(parents=True)
    (tmp_path / "student_calls/rare/start0.json").write_text(json.dumps({"right_rate": 0.006}))
    found = run_python(tree, TRAIN, str(tmp_path), str(data_root))
    assert not found["torch"]
    assert [row["step"] for row in found["rows"]] == [1, 2]
    assert all("rewards/one_label/mean" in row and "advantage/one_label_share" in row for row in found["rows"])
    assert (tmp_path / "out/model.safetensors").exists()
    assert [(row["start"], row["term"]) for row in found["tried"]] == [("rare", "one_label")]
    # A method without a teacher or a verifier gets none of theirs.
    others = {"verdict", "prompt_key", "student_block_sums", "teacher_block_sums", "cache_hit"}
    assert set(found["given"]) == {column.name for column in reward_columns()} - others


def test_the_page_s_table_of_columns_is_today_s() -> None:
    assert REWARD_PAGE.read_text() == reward_page(REWARD_PAGE.read_text())


DIGESTS = """
import json
from baselines import METHODS
from iapo.artifacts.code_digest import code_of

def digest(method):
    trainer = [method.trainer.partition(":")[0]] if method.trainer else []
    return code_of("workflow/scripts/train_policy.py", method.rewards.__module__, *trainer)

print(json.dumps({name: digest(method) for name, method in METHODS.items()}))
"""


def test_an_edit_of_its_file_concerns_no_other_method(tree: Path) -> None:
    file = tree / f"baselines/{NAME}.py"
    text = file.read_text()
    before = run_python(tree, DIGESTS)
    file.write_text(text.replace("weight=0.1", "weight=0.2"))
    after = run_python(tree, DIGESTS)
    file.unlink()
    without = run_python(tree, DIGESTS)
    file.write_text(text)
    assert {name for name in before if before[name] != after[name]} == {NAME}
    assert without == {name: digest for name, digest in before.items() if name != NAME}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("import nowhere_to_be_found\n", "baselines/broken.py: found ModuleNotFoundError: No module named 'nowhere"),
        (
            METHOD_FILE.replace("NAME", "vtool_r1"),
            "baselines/vtool_r1.py: found the name 'vtool_r1', which a Method of baselines/broken.py has; choose",
        ),
        (
            METHOD_FILE.replace("NAME", "Short-Calls"),
            "baselines/broken.py: found a Method named 'Short-Calls'; use small letters",
        ),
        (
            METHOD_FILE.replace("NAME", "other"),
            "baselines/broken.py is there, and no Method at its top level has name=",
        ),
    ],
)
def test_a_file_that_is_no_method_is_named_in_one_line(tree: Path, text: str, says: str) -> None:
    file = tree / "baselines/broken.py"
    file.write_text(text)
    command = [sys.executable, "-m", "snakemake", "-n", "results/table.csv", "--cores", "1"]
    try:
        result = subprocess.run(
            [*command, "--config", "methods=[vtool_r1,broken]"],
            cwd=tree,
            env=os.environ | {"PYTHONPATH": str(tree)},
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        file.unlink()
    assert result.returncode != 0
    (line,) = [line for line in (result.stdout + result.stderr).splitlines() if "error" in line.lower()]
    assert says in line, line
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("name", ["", "Short", "short-calls", "1st", "class", "a" * 41, "../short"])
def test_a_name_that_cannot_be_one_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(NewRewardError, match="use small letters"):
        new_reward(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["iapo", "torl_missing_fails", "teacher", "untrained_rare"])
def test_a_name_that_is_taken_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(NewRewardError, match="which another row of the tables has"):
        new_reward(name, tmp_path)


def test_a_file_that_is_there_is_left(tmp_path: Path) -> None:
    written = new_reward("mine", tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in written] == [
        "baselines/mine.py",
        "tests/baselines/test_mine.py",
    ]
    written[0].unlink()
    written[1].write_text("my own")
    with pytest.raises(NewRewardError, match=r"found tests/baselines/test_mine.py, which is left as it is"):
        new_reward("mine", tmp_path)
    assert written[1].read_text() == "my own" and not written[0].exists()
