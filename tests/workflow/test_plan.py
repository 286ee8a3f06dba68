"""What Snakemake plans, and that planning is quick and needs no torch."""

import subprocess
import sys

import pytest

from iapo.provenance import ROOT


def plan(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "snakemake", "results/table.csv", "-n", "--forceall", "--cores", "2", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("profile", "jobs"), [("mini", 35), ("smoke", 20)])
def test_every_expected_job_is_planned(profile: str, jobs: int) -> None:
    result = plan("--configfile", f"config/{profile}.yaml")
    total = next(line for line in result.stdout.splitlines() if line.startswith("total"))
    assert int(total.split()[1]) == jobs


def test_a_typo_is_one_line_before_any_job() -> None:
    result = plan("--config", "train={stpes: 3}")
    assert result.returncode != 0
    assert "train.stpes: unknown key; did you mean 'steps'?" in result.stderr + result.stdout
    assert "Traceback" not in result.stderr


def test_planning_imports_no_torch() -> None:
    code = "import sys, baselines, iapo.config, iapo.preflight, iapo.provenance; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
