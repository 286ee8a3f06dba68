"""What a cluster is asked for, rule by rule: the estimate's memory and time, so that no real job is killed for less."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from baselines import METHODS
from iapo.artifacts.code_digest import ROOT
from iapo.jobs.estimate import estimate, read_config
from iapo.jobs.limits import SMALL, Limits, limits
from iapo.jobs.stages import Kind

pytestmark = pytest.mark.gpu_run

pytestmark = pytest.mark.gpu_run

PLAN = """
import json
from pathlib import Path
from snakemake.api import SnakemakeApi
from snakemake.settings.types import ConfigSettings, DAGSettings, ResourceSettings

with SnakemakeApi() as api:
    workflow = api.workflow(
        ResourceSettings(cores=8, resources={"gpu": 64}), ConfigSettings(configfiles=[Path("config/paper.yaml")])
    )
    targets = {"results/table.csv", "results/paper/audit/summary.json", "results/paper/perf/summary.json"}
    workflow.dag(DAGSettings(targets=targets, forceall=True)).execute_workflow(executor="dryrun")
    jobs = [(job.rule.name, dict(job.resources.items())) for job in workflow._workflow.dag.jobs]
print("JOBS", json.dumps(jobs))
"""

KINDS: dict[str, Kind] = {
    "cold_start": "copy",
    "train_teacher": "teacher",
    "train_first_stage": "first_stage",
    "sample_student": "student_calls",
    "cache_teacher": "cache",
    "informative_teacher": "informative",
    "tune_weight": "tuning",
    "train_policy": "policy",
    "evaluate_policy": "evaluation",
    "evaluate_policy_off_the_shelf": "evaluation",
    "evaluate_released": "evaluation",
    # They hold what the question whether the teacher is informative holds: one model at a time, attributed.
    "audit": "informative",
    "compare_options": "informative",
    "perf": "informative",
}
"""Rule, without its seeds → the kind of job that the estimate counts it as."""


@pytest.fixture(scope="module")
def asked() -> dict[str, list[dict[str, Any]]]:
    """Rule, without its seeds → what each of its jobs asks for."""
    result = subprocess.run([sys.executable, "-c", PLAN], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, (result.stdout + result.stderr)[-3000:]
    line = next(line for line in result.stdout.splitlines() if line.startswith("JOBS "))
    found: dict[str, list[dict[str, Any]]] = {}
    for name, resources in json.loads(line[len("JOBS ") :]):
        found.setdefault(re.sub(r"(_\d+)+$", "", name), []).append(resources)
    return found


def test_every_job_on_a_gpu_asks_for_what_the_estimate_says(asked: dict[str, list[dict[str, Any]]]) -> None:
    needs = estimate(read_config([Path(ROOT / "config/paper.yaml")]), METHODS)
    on_gpus = {name for name, jobs in asked.items() if any(job.get("gpu") for job in jobs)}
    assert on_gpus == KINDS.keys() - {"cold_start"}
    for name, kind in KINDS.items():
        wanted = limits(kind, needs)
        assert wanted != SMALL, kind
        assert {Limits(job["mem_mb"], job["runtime"]) for job in asked[name]} == {wanted}, name
