"""The documentation's pages: every link leads somewhere, every page is listed, examples and commands are the code's."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from iapo.alignment.divergence import distribution, divergence
from iapo.artifacts.code_digest import ROOT
from iapo.config.schema import load_config
from iapo.jobs.estimate import merge_configs
from iapo.rewards.advantages import AdvantageRule

DOCS = ROOT / "docs"
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted(DOCS.glob("*.md")),
    *(ROOT / "config/README.md", ROOT / "results/README.md"),
    *sorted((ROOT / ".github").rglob("*.md")),
]


def prose(page: Path) -> str:
    """A page without its fenced code."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def code(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (DOCS / page).read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Addresses of a page's headings, as code hosts and the site make them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)) if not link.startswith("http")]
    dead = []
    for link in links:
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.is_file() or (anchor and anchor not in anchors(target)):
            dead.append(link)
    assert dead == []


def test_code_and_settings_name_only_pages_that_exist() -> None:
    folders = ("iapo", "baselines", "benchmarks", "workflow", "config")
    files = [path for name in folders for kind in ("py", "smk", "yaml") for path in (ROOT / name).rglob(f"*.{kind}")]
    named = {page for path in files for page in re.findall(r"\bdocs/\w+\.(?:md|py)\b", path.read_text())}
    assert len(named) > 5 and [page for page in sorted(named) if not (ROOT / page).is_file()] == []


def test_the_list_of_pages_has_each_page_once() -> None:
    listed = re.findall(r"^- \[[^]]+\]\(([^)]+)\)", (DOCS / "README.md").read_text(), flags=re.MULTILINE)
    on_disk = [path.name for path in DOCS.glob("*.md") if path.name != "README.md"]
    outside = ["../README.md", "../config/README.md", "../CHANGELOG.md", "../CONTRIBUTING.md"]
    assert sorted(listed) == sorted([*on_disk, *outside])


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_a_page_begins_with_its_title_and_what_it_is_for(page: Path) -> None:
    title, blank, first, *_ = page.read_text().splitlines()
    assert title.startswith("# ") and blank == "" and first.startswith("This page ")


def test_pages_name_only_targets_and_modules_that_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z_]+):", makefile, flags=re.MULTILINE))
    text = "\n".join(page.read_text() for page in PAGES)
    fenced = "\n".join(re.findall(r"^```.*?^```", text, flags=re.DOTALL | re.MULTILINE))
    named = re.findall(r"`make ([a-z_]+)", text) + re.findall(r"^make ([a-z_]+)", fenced, flags=re.MULTILINE)
    assert set(named) <= targets
    modules = set(re.findall(r"python -m ((?:baselines|benchmarks|iapo)[\w.]*)", text))
    files = [ROOT / module.replace(".", "/") for module in modules]
    assert modules and all(path.with_suffix(".py").exists() or (path / "__main__.py").exists() for path in files)


def test_the_command_line_s_page_has_every_target_and_option() -> None:
    page = (DOCS / "commands.md").read_text()
    makefile = (ROOT / "Makefile").read_text()
    phony = re.findall(r"^\.PHONY: (.*)$", makefile, flags=re.MULTILINE)[0].split()
    assert sorted(re.findall(r"^\| `make ([a-z_]+)", page, flags=re.MULTILINE)) == sorted(phony)
    for name in ("baselines/estimate.py", "baselines/try_reward.py"):
        options = re.findall(r'add_argument\("(--[\w-]+)"', (ROOT / name).read_text())
        assert options and [option for option in options if f"`{option}" not in page] == []


def yaml_blocks() -> Iterator[Any]:
    for page in sorted(DOCS.glob("*.md")):
        for text in code(page.name, "yaml"):
            yield pytest.param(text, id=page.name)


@pytest.mark.parametrize("text", yaml_blocks())
def test_settings_that_can_be_pasted_are_settings(text: str) -> None:
    own = yaml.safe_load(text.replace("<commit>", "a" * 40))
    load_config(merge_configs([yaml.safe_load((ROOT / "config/paper.yaml").read_text()), own]))


def test_the_examples_figures_are_those_of_the_code() -> None:
    text = (DOCS / "penalty.md").read_text()
    student, teacher = (
        [float(share) for share in re.findall(r"\.\d+", row)]
        for row in re.findall(r"^\| (?:student|teacher) .*$", text, re.M)
    )
    p, q = (distribution(torch.tensor(shares), 0.001) for shares in (student, teacher))
    found = divergence(p, q, "js").item()
    assert f"The divergence is {found:.2f}".replace("0.", ".") in text
    assert f"= {1 - 0.5 * found:.2f}".replace("0.", ".") in text

    rewards = torch.tensor([[0, -0.10], [0, -0.11], [0, -0.10], [0, -0.11]], dtype=torch.float64)
    rule = AdvantageRule(("outcome_reward", "penalty"), (1.0, 0.5), ("reward", "reward"), 4)
    said = ", ".join(f"{value:+.2f}" for value in rule.contributions(rewards)[:, 1].tolist())
    assert said.replace("0.", ".").replace("-", "−") in (DOCS / "flat_groups.md").read_text()
