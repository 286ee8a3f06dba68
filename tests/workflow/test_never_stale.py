"""On a finished small run: what each edit and each setting makes Snakemake plan again, and what it leaves alone.

Needs ``results/smoke``: run by ``.ci/run`` after ``make smoke``, and by ``pytest -m finished`` at any time after it.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from baselines.new_reward import new_reward
from iapo.artifacts.code_digest import ROOT

pytestmark = pytest.mark.finished

RESULTS = "results/smoke"
TRAINING = {f"train_policy {name}" for name in ("vtool_r1", "trm", "iapo", "iapo_rare")}
EVALUATION = {"evaluate_policy"}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the code and of the finished run, with Snakemake's own folder."""
    assert (ROOT / RESULTS / "tables/main.run.json").exists(), f"{RESULTS} not found: run `make smoke` first"
    for name in ("iapo", "baselines", "benchmarks", "workflow", "config", "profiles", RESULTS, ".snakemake/metadata"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Snakefile", "results/table.csv", "results/table.md"):
        shutil.copy2(ROOT / name, tmp_path / name)
    return tmp_path


PLAN = """
import json, sys
from pathlib import Path
from snakemake.api import SnakemakeApi
from snakemake.settings.types import ConfigSettings, DAGSettings, ResourceSettings

with SnakemakeApi() as api:
    workflow = api.workflow(
        ResourceSettings(cores=1),
        ConfigSettings(config=json.loads(sys.argv[1]), configfiles=[Path("config/smoke.yaml")]),
    )
    workflow.dag(DAGSettings(targets={"results/table.csv"})).execute_workflow(executor="dryrun")
    plan = workflow._workflow
    jobs = [
        [job.rule.name, dict(job.wildcards_dict)]
        for job in plan.dag.jobs
        if plan.persistence.params_changed(job)
    ]
print("JOBS", json.dumps(jobs))
"""


def changed_jobs(tree: Path, setting: str = "{}") -> set[str]:
    """The jobs whose params differ from those that made their outputs, whatever else would run: rule and method.

    What Snakemake prints as a job's reason leaves this out where an input is made again already.
    """
    result = subprocess.run(
        [sys.executable, "-c", PLAN, json.dumps(yaml.safe_load(setting))],
        cwd=tree,
        env=os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, (result.stdout + result.stderr)[-3000:]
    listed = next(line for line in result.stdout.splitlines() if line.startswith("JOBS "))
    found = set()
    for name, wildcards in json.loads(listed.removeprefix("JOBS ")):
        rule = re.sub(r"_(off_the_shelf_)?\d(_\d)*$", "", name)
        by_method = rule in ("train_policy", "tune_weight")
        found.add(f"{rule} {wildcards['method']}" if by_method else rule)
    return found


def edit(path: Path) -> None:
    with path.open("a") as file:
        file.write("\n_edited = 1\n")


def test_nothing_is_planned_where_nothing_has_changed(tree: Path) -> None:
    assert changed_jobs(tree) == set()


@pytest.mark.parametrize(
    ("setting", "planned"),
    [
        (
            "evaluation: {turn_tokens: 12}",
            {"sample_student", "cache_teacher", "tune_weight iapo", "tune_weight trm", "train_policy trm", *EVALUATION},
        ),
        ("evaluation: {batch_size: 7}", {"tune_weight iapo", "tune_weight trm", *EVALUATION}),
        (
            "train: {temperature: 0.9}",
            {"sample_student", "tune_weight iapo", "tune_weight trm", *TRAINING},
        ),
        ("teacher: {train: {temperature: 0.9}}", {"train_teacher", "cache_teacher"}),
        ("teacher: {n_steps: 9}", {"cache_teacher", "informative_teacher"}),
        ("hardware: {lora_rank: 4}", {"train_teacher", "tune_weight iapo", "tune_weight trm", *TRAINING}),
        (
            "alignment: {weight: 0.3}",
            {"informative_teacher", "tune_weight iapo", "train_policy iapo", "train_policy iapo_rare"},
        ),
        ("rewards: {verdict: 0.3}", {"tune_weight trm", "train_policy trm"}),
        ("statistics: {seed: 8}", {"informative_teacher", "make_tables"}),
        ("monitors: {window: 5}", {"make_tables"}),
        ("data: {labels_per_figure: 4}", {"build_data"}),
        ("student: {cold_start: {seed: 5}}", {"cold_start", "sample_student"}),
        ("student: {cold_start: {batch_size: 8}}", {"cold_start", "teach_habit"}),
        ("student: {habits: {rare: {steps: 5}}}", {"teach_habit"}),
        ("variants: {iapo_rare: {start: null}}", {"train_policy iapo_rare", "make_tables"}),
        # The second seed gets another start and another teacher, in the jobs that hold both seeds.
        (
            "{student: {cold_starts: 1}, teacher: {cold_starts: 1}}",
            {*TRAINING, *EVALUATION, "informative_teacher", "make_tables"},
        ),
        # No third seed trains from a third start.
        ("student: {cold_starts: 4}", {"make_tables"}),
        ("attribution: {tokens_per_forward: 99}", set()),
        ("train: {save_every: 2}", set()),
    ],
)
def test_a_setting_plans_exactly_the_jobs_that_read_it(tree: Path, setting: str, planned: set[str]) -> None:
    assert changed_jobs(tree, setting) == planned


ATTRIBUTES = {
    *("cache_teacher", "informative_teacher", "tune_weight iapo", "train_policy iapo", "train_policy iapo_rare"),
}
ROLLS_OUT = {
    "sample_student",
    "cold_start",
    "teach_habit",
    "train_teacher",
    "tune_weight trm",
    *ATTRIBUTES,
    *TRAINING,
    *EVALUATION,
}


@pytest.mark.parametrize(
    ("module", "planned"),
    [
        ("iapo/attribution/quadrature.py", ATTRIBUTES),
        ("iapo/models/precision.py", ATTRIBUTES),
        ("iapo/alignment/divergence.py", ATTRIBUTES),
        ("iapo/training/weight_search.py", {"tune_weight iapo", "tune_weight trm"}),
        ("iapo/training/monitors.py", {"make_tables"}),
        ("iapo/rollout/environment.py", ROLLS_OUT),
        ("iapo/data/build.py", {"build_data"}),
        ("baselines/iapo_alignment.py", {"tune_weight iapo", "train_policy iapo", "train_policy iapo_rare"}),
        ("iapo/cold_start/demonstrations.py", {"cold_start", "teach_habit"}),
        ("iapo/cold_start/call_rates.py", {"sample_student"}),
        ("baselines/torl.py", set()),
        ("benchmarks/tasks/scoring.py", EVALUATION),
        ("iapo/artifacts/progress.py", set()),
        ("workflow/scripts/build_data.py", {"build_data"}),
        ("workflow/scripts/cold_start.py", {"cold_start"}),
        ("workflow/scripts/teach_habit.py", {"teach_habit"}),
        ("workflow/scripts/sample_student.py", {"sample_student"}),
        ("workflow/scripts/cache_teacher.py", {"cache_teacher"}),
        ("workflow/scripts/informative_teacher.py", {"informative_teacher"}),
        ("workflow/scripts/train_policy.py", {"train_teacher", *TRAINING}),
        ("workflow/scripts/tune_weight.py", {"tune_weight iapo", "tune_weight trm"}),
        ("workflow/scripts/evaluate_policy.py", EVALUATION),
        ("workflow/scripts/make_tables.py", {"make_tables"}),
        ("workflow/scripts/audit.py", set()),
    ],
)
def test_an_edit_plans_exactly_the_jobs_that_run_it(tree: Path, module: str, planned: set[str]) -> None:
    edit(tree / module)
    assert changed_jobs(tree) == planned


def test_every_module_of_the_methods_registry_counts_where_methods_are_resolved(tree: Path) -> None:
    # What a method is decides what is trained: settings and weights come out of it as params.
    registry = tree / "iapo/config/method_registry.py"
    registry.write_text(registry.read_text().replace('"device", "hardware", "train"', '"device", "hardware"'))
    result = changed_jobs(tree)
    assert result >= TRAINING and "evaluate_policy" not in result


def test_wording_plans_nothing(tree: Path) -> None:
    for path in ("iapo/attribution/quadrature.py", "workflow/scripts/train_policy.py"):
        with (tree / path).open("a") as file:
            file.write("\n\n# A comment.\n")
    assert changed_jobs(tree) == set()


def test_the_file_of_another_method_plans_nothing(tree: Path) -> None:
    new_reward("mine", tree)
    assert changed_jobs(tree) == set()


def test_results_without_snakemake_s_folder_are_held_against_their_records(tree: Path) -> None:
    shutil.rmtree(tree / ".snakemake")
    assert changed_jobs(tree) == set()
    shutil.rmtree(tree / ".snakemake")
    edit(tree / "iapo/attribution/quadrature.py")
    assert changed_jobs(tree) == ATTRIBUTES
    shutil.rmtree(tree / ".snakemake")
    assert changed_jobs(tree, "data: {labels_per_figure: 4}") == {"build_data", *ATTRIBUTES}


def test_every_job_has_read_what_its_rule_declares() -> None:
    records = sorted((ROOT / RESULTS).rglob("*.run.json"))
    unread = {}
    for path in records:
        record = json.loads(path.read_text())
        declared = set(record["plan"]["settings"])
        assert declared, path
        if left := declared - set(record["settings_read"]):
            unread[path.relative_to(ROOT).as_posix()] = sorted(left)
    assert len(records) > 15 and unread == {}


@pytest.mark.parametrize(
    ("removed", "rules"),
    [
        ("train/trm/seed0", {"train_policy_0_1", "evaluate_policy_0_1", "make_tables", "show_table", "write_cards"}),
        ("eval/trm", {"evaluate_policy_0_1", "make_tables", "show_table", "write_viewer"}),
        ("teacher/start0/cache", {"cache_teacher", "train_policy_0_1", "make_tables"}),
        ("tuning/iapo.json", {"tune_weight", "train_policy_0_1", "make_tables"}),
        ("models/student/cold", {"cold_start", "train_policy_0_1", "evaluate_policy_off_the_shelf_0_1"}),
        ("data", {"build_data", "train_policy_0_1", "make_tables"}),
        ("tables", {"make_tables", "show_table"}),
        ("figures", {"make_tables"}),
        ("student_calls", {"sample_student", "cache_teacher", "make_tables"}),
        ("informative.json", {"informative_teacher", "make_tables"}),
        (None, set()),
    ],
)
def test_what_someone_removes_is_planned_again_with_all_that_follows(
    tree: Path, removed: str | None, rules: set[str]
) -> None:
    if removed:
        path = tree / RESULTS / removed
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for target in ("table_and_pages", "all"):
        result = subprocess.run(
            [sys.executable, "-m", "snakemake", "-n", target, "--cores", "1", "--configfile", "config/smoke.yaml"],
            cwd=tree,
            env=os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr[-2000:]
        planned = set(re.findall(r"^(\w+) +\d+$", result.stdout.partition("Job stats:")[2], re.MULTILINE))
        pages = {"write_cards", "write_viewer"}
        assert rules - (pages if target == "all" else set()) <= planned
        assert bool(planned) == bool(removed)
