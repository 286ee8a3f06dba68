"""Numbers in README and docs/: each is the code's, is measured, or stands in a block that a command writes."""

import importlib.metadata
import re
from pathlib import Path

import pandas as pd
import pytest
import yaml

from benchmarks.readme import README
from benchmarks.run_cost import FILE
from iapo.alignment.informativeness import _CHANCE, _INFORMATIVE, _MIN_GROUPS
from iapo.artifacts.code_digest import ROOT
from iapo.attribution.quadrature import _GRADE
from iapo.config.schema import Config, load_config
from iapo.jobs.ending import GRACE
from iapo.teacher.turns import PROMPTS_TOGETHER
from iapo.tools.registry import TOOLS
from iapo.training.checkpoints import _HASHED_BYTES

DOCS = ROOT / "docs"
MINI = load_config(yaml.safe_load((ROOT / "config/mini.yaml").read_text()))
WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
         "thirteen")  # fmt: skip

HELD = {
    "README.md": {"30 minutes", "9 GB", "7 GB"},
    "quickstart.md": {"30 minutes", "9 GB", "7 GB"},
    # tests/benchmarks/gpu_check/test_checks.py
    "gpu_check.md": {"25 minutes"},
    # STATED below.
    "resume.md": {"20 seconds", "1 GiB"},
    # What a preset is for, which tests/baselines/test_estimate.py holds.
    "one_gpu.md": {"80 GB", "24 GB"},
    "four_gpus.md": {"80 GB"},
}
"""Page → its times and sizes that a test holds."""
FORMULAS = "estimate.md"
"""The page of the estimate's assumptions and formulas, whose example tests/jobs/test_estimate.py holds."""


def fraction(value: float) -> str:
    return f"{value:g}".replace("0.", ".")


STATED = [
    ("how_it_works.md", f"{WORDS[len(MINI.test_sets)]} test sets"),
    ("how_it_works.md", f"{WORDS[round(10 * MINI.data.smudge_rate)]} in ten are smudged"),
    ("how_it_works.md", f"{WORDS[MINI.student.cold_starts]} cold starts of\n   the student"),
    ("how_it_works.md", f"{WORDS[MINI.teacher.cold_starts]} of the teacher"),
    ("how_it_works.md", f"{WORDS[len(TOOLS)].capitalize()} tools"),
    ("add_a_tool.md", f"There are {WORDS[len(TOOLS)]}"),
    ("cold_starts.md", f"with {WORDS[len(MINI.seeds)]} seeds, {WORDS[MINI.student.cold_starts]} cold starts"),
    ("attribution.md", f"{MINI.attribution.n_steps} for the student, {MINI.teacher.n_steps} for the teacher"),
    ("attribution.md", f"(j/n)^{{{_GRADE}}}"),
    ("differences.md", f"| {MINI.attribution.n_steps} ({MINI.teacher.n_steps} for the teacher)"),
    ("differences.md", f"| λ | {MINI.alignment.weight} |"),
    ("differences.md", f"smoothing {MINI.alignment.smoothing:.0e}".replace("e-0", "e-")),
    ("penalty.md", f"(`alignment.smoothing`, {fraction(MINI.alignment.smoothing)})"),
    ("informative.md", f"interval (below) is above {fraction(_INFORMATIVE)} "),
    ("informative.md", f"the lower end is above {fraction(_CHANCE)} "),
    ("informative.md", f"fewer than {_MIN_GROUPS} groups"),
    ("resume.md", f"within {GRACE:g}\nseconds"),
    ("resume.md", f"up to {_HASHED_BYTES / 2**30:g} GiB with its SHA-256"),
    ("teacher_cache.md", f"in whole batches of {PROMPTS_TOGETHER} "),
    ("verdicts.md", f"within ±{100 * MINI.statistics.margin:g} points (`statistics.margin`)"),
    ("verdicts.md", f"$m$ = {100 * MINI.statistics.margin:g} points"),
    ("verdicts.md", f"with a chance of {100 * MINI.statistics.power:g} %"),
    ("verdicts.md", f"significant at {100 * (1 - MINI.statistics.level):g} %"),
    ("results.md", f"with a chance of {100 * MINI.statistics.power:g} %"),
]


@pytest.mark.parametrize(("page", "said"), STATED)
def test_a_setting_s_value_is_the_code_s(page: str, said: str) -> None:
    assert said in (DOCS / page).read_text()


def prose(page: Path) -> str:
    """A page without the blocks that commands write."""
    return re.sub(r"<!-- ([\w ]+): written by .*?<!-- end of \1 -->", "", page.read_text(), flags=re.DOTALL)


@pytest.mark.parametrize("page", [README, *sorted(DOCS.glob("*.md"))], ids=str)
def test_times_and_sizes_are_written_by_a_command_or_held_by_a_test(page: Path) -> None:
    # The name README.md stands for the project's first page; docs/README.md lists pages and says no numbers.
    held = HELD.get(page.name, set())
    found = set(re.findall(r"\b\d[\d.,]* (?:seconds|minutes|hours?|h|[MGT]i?B)\b", re.sub(r"\s+", " ", prose(page))))
    assert page.name == FORMULAS or found <= held
    written_out = r"\b(?:an|one|two|three|five|six|nine|ten|twenty|thirty|half an|quarter of an) (?:minutes|hours?)\b"
    assert re.findall(written_out, prose(page)) == []


def test_mini_takes_as_long_everywhere_as_readme_says() -> None:
    (said,) = re.findall(r"(\d+) minutes on 2 CPU cores", README.read_text())
    assert re.findall(r"(\d+) minutes\s+on 2 CPU cores", (DOCS / "quickstart.md").read_text()) == [said]


def test_memory_is_enough_for_two_jobs_of_the_largest_run_that_is_known() -> None:
    largest = pd.read_csv(ROOT / "results/reference" / FILE)["memory_gb"].max()
    for page in (README, DOCS / "quickstart.md"):
        (said,) = re.findall(r"(\d+) GB of memory", page.read_text())
        # The run's own process and the system take the rest.
        assert 2 * largest + 2 <= int(said)


def test_disk_is_what_the_locked_packages_take() -> None:
    names = re.findall(r"^([\w.-]+)==", (ROOT / "requirements.lock").read_text(), flags=re.MULTILINE)
    size = 0
    for name in names:
        try:
            files = importlib.metadata.distribution(name).files or []
        except importlib.metadata.PackageNotFoundError:
            # Of another Python or system.
            continue
        size += sum(path.stat().st_size for file in files if (path := Path(str(file.locate()))).exists())
    for page in (README, DOCS / "quickstart.md"):
        (said,) = re.findall(r"(\d+) GB of disk for the environment", page.read_text())
        assert size <= int(said) * 1e9 <= size + 2e9


def test_the_defaults_that_pages_state_are_mini_s() -> None:
    assert MINI.attribution == Config(profile="x").attribution and MINI.alignment == Config(profile="x").alignment
