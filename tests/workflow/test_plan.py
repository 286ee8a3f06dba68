"""What Snakemake plans, and that planning is quick and needs no torch."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from iapo.artifacts.code_digest import ROOT


def plan(*arguments: str, target: str = "results/table.csv") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "snakemake", target, "-n", "--forceall", "--cores", "2", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("profile", "jobs"), [("mini", 33), ("smoke", 32)])
def test_every_expected_job_is_planned(profile: str, jobs: int) -> None:
    result = plan("--configfile", f"config/{profile}.yaml")
    total = next(line for line in result.stdout.splitlines() if line.startswith("total"))
    assert int(total.split()[1]) == jobs


def test_the_paper_s_run_is_planned_without_gpu_or_network() -> None:
    result = plan("--workflow-profile", "profiles/paper")
    assert result.returncode == 0, result.stderr
    counts = dict(line.split() for line in result.stdout.splitlines() if re.fullmatch(r"\w+ +\d+", line))
    expected = {
        "download": 5,
        "download_prompt": 1,
        "evaluate_released": 2,
        "cold_start": 2,
        "train_first_stage": 1,
        "train_teacher": 1,
        "tune_weight": 5,
        "cut_prompts": 4,
        "cache_teacher": 4,
        "join_cache": 1,
    }
    assert expected.items() <= {name: int(count) for name, count in counts.items()}.items()
    # Eight methods and three seeds, each trained and evaluated by a job of its own; four rows that no method trains,
    # and two of released weights.
    trained = sum(int(count) for name, count in counts.items() if name.startswith("train_policy_"))
    evaluated = sum(int(count) for name, count in counts.items() if name.startswith("evaluate_policy_"))
    assert (trained, evaluated, int(counts["total"])) == (24, 28, 83)


def test_the_rehearsal_has_every_rule_of_the_paper_s_run() -> None:
    """Rules, by their names without the seeds; jobs of each are fewer."""
    plans = [plan("--workflow-profile", f"profiles/{profile}") for profile in ("paper", "rehearsal")]
    assert [result.returncode for result in plans] == [0, 0], plans[1].stderr
    paper, rehearsal = (
        {re.sub(r"_\d$", "", name) for name in re.findall(r"^(\w+) +\d+$", result.stdout, re.MULTILINE)}
        for result in plans
    )
    assert paper == rehearsal


def test_a_typo_is_one_line_before_any_job() -> None:
    result = plan("--config", "train={stpes: 3}")
    assert result.returncode != 0
    assert "train.stpes: unknown key; did you mean 'steps'?" in result.stderr + result.stdout
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_model_of_another_family_is_one_line_before_any_job(device: str, tmp_path: Path) -> None:
    config = tmp_path / "hub/Someone/Else/config.json"
    config.parent.mkdir(parents=True)
    config.write_text('{"model_type": "qwen3_vl"}')
    overlay = tmp_path / "overlay.yaml"
    source = {"repo": "Someone/Else", "revision": "0" * 40}
    changes = {
        "device": device,
        "hub": {"address": str(tmp_path / "hub"), "downloads": str(tmp_path / "downloads")},
        "student": {"model": {"pretrained": {"source": source}}},
    }
    overlay.write_text(yaml.safe_dump(changes))
    result = plan("--configfile", "config/paper.yaml", "config/presets/rehearsal.yaml", str(overlay))
    assert result.returncode != 0 and "Traceback" not in result.stderr
    (line,) = [each for each in result.stderr.splitlines() if "model_type" in each]
    assert line.startswith("error: Someone/Else: found model_type 'qwen3_vl', expected 'qwen2_5_vl'")


def test_the_table_comes_with_the_viewer_and_the_cards_but_does_not_wait_for_them() -> None:
    planned = plan("--configfile", "config/mini.yaml").stdout
    assert "_viewer" not in planned and "write_cards" not in planned
    command = ["make", "--dry-run", "table"]
    lines = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines[-2].endswith("snakemake table_and_pages --cores all") and lines[-1].startswith("echo")
    whole = plan("--configfile", "config/mini.yaml", target="table_and_pages").stdout
    for rule, page in (("write_viewer", "view.html"), ("write_training_viewer", "view_training.html")):
        assert re.search(rf"^{rule} +1$", whole, re.MULTILINE) and f"results/mini/{page}" in lines[-1]
    assert all(re.search(rf"^{rule} +1$", whole, re.MULTILINE) for rule in ("write_cards", "show_table"))


def test_planning_imports_no_torch() -> None:
    modules = "baselines, iapo.config.schema, iapo.jobs.preflight, iapo.jobs.workflow_job"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_files_from_the_future_are_settled_before_anything_is_planned(
    request: pytest.FixtureRequest,
) -> None:
    path = ROOT / "results/from_the_future/made"
    request.addfinalizer(lambda: shutil.rmtree(path.parent, ignore_errors=True))
    path.parent.mkdir(parents=True)
    path.touch()
    os.utime(path, (time.time() + 3600,) * 2)
    result = plan("--config", f"profile={path.parent.name}")
    assert result.returncode == 0 and "results/from_the_future: found 1 files" in result.stderr
    assert path.stat().st_mtime < time.time() + 60
