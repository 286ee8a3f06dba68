"""Several cold starts and teachers: which files each seed's jobs are planned with, and that the job keeps to it."""

import json
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from iapo.artifacts.code_digest import ROOT

RESULTS = "results/smoke"

STARTS = """
seeds: [0, 1, 2, 3]
seeds_per_job: 4
methods: [vtool_r1, trm, iapo, rare]
student: {cold_starts: 4}
variants: {rare: {method: iapo, start: rare}}
"""

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
    workflow.dag(DAGSettings(targets={"results/table.csv"}, forceall=True)).execute_workflow(executor="dryrun")
    jobs = [
        {
            "rule": job.rule.name,
            "wildcards": dict(job.wildcards_dict),
            "params": {name: value for name, value in job.params.items() if name in ("starts", "teachers", "asked")},
            "processes": job.params.get("settings", {}).get("hardware", {}).get("processes"),
            "input": {
                name: [str(value)] if isinstance(value, str) else list(map(str, value))
                for name, value in job.input.items()
            },
        }
        for job in workflow._workflow.dag.jobs
    ]
print("JOBS", json.dumps(jobs))
"""


@pytest.fixture(scope="module")
def jobs() -> list[dict[str, Any]]:
    return planned_with(STARTS)


def planned_with(settings: str) -> list[dict[str, Any]]:
    command = [sys.executable, "-c", PLAN, json.dumps(yaml.safe_load(settings))]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, (result.stdout + result.stderr)[-3000:]
    return json.loads(next(line for line in result.stdout.splitlines() if line.startswith("JOBS "))[len("JOBS ") :])


def planned(jobs: list[dict[str, Any]], rule: str, **wildcards: str) -> dict[str, Any]:
    """The one job of this rule, seeds left out, and these wildcards."""
    (found,) = [job for job in jobs if job["rule"].startswith(rule) and wildcards.items() <= job["wildcards"].items()]
    return found


def students(stage: str) -> list[str]:
    return [f"{RESULTS}/models/student/{stage}/start{start}/model.safetensors" for start in range(4)]


CACHES = [f"{RESULTS}/teacher/start{teacher}/cache/main.stats.json" for teacher in (0, 1, 0, 1)]
TEACHERS = [f"{RESULTS}/teacher/start{teacher}/seed{teacher}/model/model.safetensors" for teacher in (0, 1)]


def test_each_seed_trains_from_its_own_start_with_its_own_teacher(jobs: list[dict[str, Any]]) -> None:
    plain, iapo, judged = (planned(jobs, "train_policy", method=name) for name in ("vtool_r1", "iapo", "trm"))
    for job in (plain, iapo, judged):
        assert job["input"]["start"] == students("cold")
        assert job["params"]["starts"] == [["cold", start] for start in range(4)]
    assert iapo["input"]["cache"] == CACHES and judged["input"]["teacher"] == TEACHERS * 2
    assert plain["params"]["teachers"] == [] and iapo["params"]["teachers"] == [0, 1, 0, 1]


def test_a_variant_trains_from_the_start_that_it_names(jobs: list[dict[str, Any]]) -> None:
    job = planned(jobs, "train_policy", method="rare")
    assert job["input"]["start"] == students("rare") and job["input"]["cache"] == CACHES
    habit = planned(jobs, "teach_habit", habit="rare", start="3")
    assert habit["input"]["start"] == [students("cold")[3]]


def test_a_teacher_s_cache_has_the_calls_of_every_start_that_reads_it(jobs: list[dict[str, Any]]) -> None:
    job = planned(jobs, "cache_teacher", start="1")
    expected = [
        f"{RESULTS}/student_calls/{stage}/start{start}.parquet" for stage in ("cold", "rare") for start in (1, 3)
    ]
    assert job["input"]["calls"] == expected and job["input"]["teacher"] == [TEACHERS[1]]


def test_a_cache_of_several_jobs_is_joined_of_parts_that_each_score_their_own_prompts() -> None:
    jobs = planned_with(f"{STARTS}hardware: {{cache_jobs: 2}}")
    folder = f"{RESULTS}/teacher/start1/cache"
    parts = [f"{folder}/main_part{part}of2" for part in (0, 1)]
    for part, path in enumerate(parts):
        scored = planned(jobs, "cache_teacher", start="1", part=str(part))
        assert scored["input"]["manifest"] == [f"{path}_prompts/manifest.json"]
        assert scored["input"]["calls"] == [f"{path}_prompts/calls.parquet"]
        assert scored["input"]["teacher"] == [TEACHERS[1]]
        cut = planned(jobs, "cut_prompts", start="1", part=str(part))
        assert cut["input"]["calls"] == [
            f"{RESULTS}/student_calls/{stage}/start{start}.parquet" for stage in ("cold", "rare") for start in (1, 3)
        ]
    joined = planned(jobs, "join_cache", start="1")
    assert joined["input"]["parts"] == [f"{path}.stats.json" for path in parts]
    assert planned(jobs, "train_policy", method="iapo")["input"]["cache"] == CACHES


def test_starts_and_teachers_are_evaluated_each(jobs: list[dict[str, Any]]) -> None:
    evaluated = {
        row: planned(jobs, "evaluate_policy", method=row)["input"]["models"]
        for row in ("untrained", "untrained_rare", "teacher_untrained", "teacher")
    }
    assert evaluated["untrained"] == students("cold") and evaluated["untrained_rare"] == students("rare")
    assert evaluated["teacher"] == TEACHERS
    assert evaluated["teacher_untrained"] == [
        f"{RESULTS}/models/teacher/cold/start{start}/model.safetensors" for start in (0, 1)
    ]


def test_trials_take_one_process_where_asked() -> None:
    alone = planned_with(f"{STARTS}hardware: {{processes: 2, trials_on_one_gpu: true}}")
    assert planned(alone, "tune_weight", method="iapo")["processes"] == 1
    assert planned(alone, "train_policy", method="iapo")["processes"] == 2


def test_trials_and_the_verdict_take_the_first_start(jobs: list[dict[str, Any]]) -> None:
    trials = planned(jobs, "tune_weight", method="iapo")
    assert trials["input"]["start"] == [students("cold")[0]] and trials["input"]["cache"] == CACHES[:1]
    asked = planned(jobs, "informative_teacher")
    assert asked["input"]["calls"] == [f"{RESULTS}/student_calls/cold/start0.parquet"]
    assert asked["params"]["asked"] == {"0": 0, "1": 1}
    assert [asked["input"][f"teacher{seed}"] for seed in (0, 1)] == [[TEACHERS[0]], [TEACHERS[1]]]


class Named(dict):
    """Named inputs or params, as Snakemake hands them to a script."""

    __getattr__ = dict.__getitem__


def test_the_training_job_gives_each_seed_its_own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[Any] = []
    monkeypatch.setattr("baselines.run.run_job", lambda job: trained.append(job) or [{"step": 1}])
    files = [tmp_path / name for name in ("cold0/w", "cold1/w", "t0.stats.json", "t1.stats.json", "data/manifest.json")]
    for path in files:
        path.parent.mkdir(exist_ok=True)
        path.write_text(path.as_posix())
    runs = [tmp_path / f"seed{seed}" for seed in (4, 9)]
    inputs = {"manifest": str(files[4]), "start": list(map(str, files[:2])), "cache": list(map(str, files[2:4]))}
    outputs = {"weights": "model/w", "metrics": "metrics.csv", "record": "model.run.json"}
    made = {name: [str(run / path) for run in runs] for name, path in outputs.items()}
    params = Named(settings={}, method="iapo", name="iapo", weight=None, seeds=[4, 9], replies="replies", code="")
    job = SimpleNamespace(
        input=Named(inputs), params=params, output=Outputs(made), log=[str(tmp_path / "log")], config={"profile": "x"},
        resources={}, rule="train_policy", threads=1,
    )  # fmt: skip
    runpy.run_path(str(ROOT / "workflow/scripts/train_policy.py"), init_globals={"snakemake": job})
    found = [(run.seed, run.start.name, run.cache.name, run.teacher) for run in trained]
    assert found == [(4, "cold0", "t0", None), (9, "cold1", "t1", None)]
    records = [json.loads((run / "model.run.json").read_text())["inputs"] for run in runs]
    assert [record["start"]["path"] for record in records] == inputs["start"]
    assert [record["teacher_cache"]["path"] for record in records] == inputs["cache"]


class Outputs(Named):
    """Iterates over its files, not its names."""

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter([path for paths in self.values() for path in paths])
