"""What Snakemake prints by this project's logger, on a workflow of three small jobs and one rule that does nothing."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from iapo.artifacts.code_digest import ROOT
from iapo.jobs.run_lines import PHRASES, in_words, kind_of

SNAKEFILE = """
from iapo.jobs.ending import hand_on_interrupts, name_as_starter, silent_imports

config |= {"profile": "test", "device": "cpu"}
name_as_starter()
shell.prefix(silent_imports())


onstart:
    hand_on_interrupts()


rule all:
    input:
        expand("results/test/train/{method}.txt", method=["trm", "iapo"]),
        "results/table.txt",


rule train_policy_0:
    output: "results/test/train/{method}.txt"
    log: "results/test/logs/train/{method}.log"
    params: settings={}
    script: "train.py"


rule show_table:
    output: "results/table.txt"
    log: "results/test/logs/show_table.log"
    shell: "(echo '| table |' && touch {output}) 2> {log}"
"""
SCRIPT = """
from iapo.jobs.workflow_job import job

with job(snakemake) as run:
    import logging, os, sys, time, warnings
    from pathlib import Path
    from iapo.hub.files import HubError

    os.system("echo noise of another process")
    print("noise")
    warnings.warn("noise of a library")
    logging.getLogger("transformers").warning("noise of a library")
    logging.getLogger("iapo.hub").warning("the cache is cold")
    does, method = os.environ.get("DOES", ""), snakemake.wildcards.method
    if does == "waits":
        Path(f"{method}.waits").touch()
        time.sleep(60)
    if (does, method) == ("fails", "trm"):
        raise HubError("found no file, expected one: fetch it")
    if (does, method) != ("forgets", "trm"):
        Path(snakemake.output[0]).touch()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    (tmp_path / "train.py").write_text(SCRIPT)
    return tmp_path


def start(folder: Path, *arguments: str, does: str = "") -> subprocess.Popen[str]:
    profile = ("--workflow-profile", str(ROOT / "profiles/default"))
    return subprocess.Popen(
        [sys.executable, "-m", "snakemake", "--cores", "2", *profile, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "DOES": does},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        # A shell that starts the tests in its background has it ignored, and whatever they start would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def lines_of(process: subprocess.Popen[str]) -> list[str]:
    said, _ = process.communicate(timeout=300)
    return said.splitlines()[1:]  # The first names the profile.


def test_a_line_a_job_and_no_noise(folder: Path) -> None:
    lines = lines_of(start(folder))
    assert lines[0] == "4 jobs; each one's own output is in results/test/logs"
    told = [re.sub(r" · .*", "", line) for line in lines if line.startswith("[")]
    assert [line[:5] for line in told] == ["[1/4]", "[2/4]", "[3/4]", "[4/4]"]
    expected = {"trained trm, seed 0", "trained iapo, seed 0", "put the table into results/"}
    assert {line[6:] for line in told[:3]} == expected
    assert lines.count("warning: the cache is cold") == 1 and lines.count("| table |") == 1
    assert lines[-3:-1] == ["Warned of:", "- the cache is cold (2 times)"] and lines[-1].startswith("Done: 4 jobs in ")
    assert len(lines) == 10, lines
    log = (folder / "results/test/logs/train/trm.log").read_text().splitlines()
    assert {"noise of another process", "noise", "noise of a library", "warning: the cache is cold"} <= set(log)
    assert lines_of(start(folder)) == ["Nothing to be done (all requested files are present and up to date)."]


def test_a_known_error_is_a_line_and_no_traceback(folder: Path) -> None:
    process = start(folder, "--keep-going", does="fails")
    lines = lines_of(process)
    failed = lines.index("failed to train trm, seed 0:")
    assert lines[failed + 1 : failed + 3] == [
        "    error: found no file, expected one: fetch it",
        "    (the whole log: results/test/logs/train/trm.log)",
    ]
    assert not [line for line in lines if "Traceback" in line or "Error in" in line]
    assert process.returncode == 1 and "2 of 4 jobs done and 1 failed" in lines[-1]


def test_an_error_of_snakemake_s_own_is_told(folder: Path) -> None:
    process = start(folder, "--keep-going", "--latency-wait", "0", does="forgets")
    said = "\n".join(lines_of(process))
    assert process.returncode == 1 and "MissingOutputException" in said and "results/test/train/trm.txt" in said


def test_an_error_before_any_job_is_told(folder: Path) -> None:
    process = start(folder, "nowhere.txt")
    said = "\n".join(lines_of(process))
    assert process.returncode == 1 and "MissingRuleException" in said and "Stopped" not in said


def waiting(folder: Path) -> subprocess.Popen[str]:
    """A run whose two jobs wait."""
    process = start(folder, does="waits")
    until(lambda: len(list(folder.glob("*.waits"))) == 2)
    return process


def until(condition: Callable[[], object]) -> None:
    """Wait, for two minutes at most."""
    for _ in range(1200):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("waited in vain")


def below(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("send", [os.killpg, os.kill], ids=["group", "run"])
def test_an_interrupted_run_says_so_last(folder: Path, number: int, send: Callable[[int, int], None]) -> None:
    process = waiting(folder)
    jobs = below(process)
    send(process.pid, number)
    lines = lines_of(process)
    assert len(jobs) == 2 and not [job for job in jobs if job.is_running()]
    assert "Interrupted: ends the jobs that run." in lines
    assert re.match(r"Interrupted after .*: [01] of 4 jobs done\. The same command goes on from there\.", lines[-1])
    assert not [line for line in lines if "Traceback" in line or line.startswith("failed")]
    assert (folder / "results/test/logs/train/trm.log").read_text().endswith("interrupted\n")


def test_an_interrupt_of_the_first_imports_shows_no_traceback(folder: Path) -> None:
    process = start(folder, does="waits")
    until(lambda: len(below(process)) == 2)
    os.killpg(process.pid, signal.SIGINT)
    lines = lines_of(process)
    assert not list(folder.glob("*.waits")) and not [line for line in lines if "Traceback" in line]
    assert lines[-1].startswith("Interrupted after ")


def test_jobs_do_not_outlive_a_killed_run(folder: Path) -> None:
    process = waiting(folder)
    jobs = below(process)
    process.kill()
    process.wait()
    assert len(jobs) == 2
    psutil.wait_procs(jobs, timeout=30)
    assert not [job for job in jobs if job.is_running()]


def test_a_dry_run_is_snakemake_s_own(folder: Path) -> None:
    process = start(folder, "--dry-run")
    said = "\n".join(lines_of(process))
    assert process.returncode == 0
    assert "Reasons:\n" in said and "rule train_policy_0:" in said and "\ntotal " in said


RULES = """
import json, sys
from pathlib import Path
from snakemake.api import SnakemakeApi
from snakemake.settings.types import ConfigSettings, ResourceSettings

rules = {}
for name in sys.argv[1:]:
    with SnakemakeApi() as api:
        workflow = api.workflow(ResourceSettings(cores=1), ConfigSettings(configfiles=[Path(f"config/{name}.yaml")]))
        for rule in workflow._workflow.rules:
            rules[rule.name] = [sorted(rule.wildcard_names), bool(rule.log)]
print("RULES", json.dumps(rules))
"""


def test_every_rule_has_its_words_and_a_log() -> None:
    command = [sys.executable, "-c", RULES, "mini", "paper", "sparse", "mechanism"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, (result.stdout + result.stderr)[-3000:]
    found = next(line for line in result.stdout.splitlines() if line.startswith("RULES "))
    rules = json.loads(found.removeprefix("RULES "))
    for name, (wildcards, has_log) in rules.items():
        assert in_words(name, dict.fromkeys(wildcards, "x"), done=True) != f"ran {name}"
        assert has_log or name in ("all", "table_and_pages")
    assert set(PHRASES) == set(map(kind_of, rules))
