"""The report in a browser: it opens on the verdicts, its numbers open their questions, and it fits both widths."""

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks.tables.write import write_all
from iapo.artifacts.files import write_json
from iapo.config.schema import Config


@pytest.fixture(scope="module")
def report(folder: Path, config: Config, html: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report beside its viewer, of a run whose declared comparisons are of its two methods."""
    root = tmp_path_factory.mktemp("report") / "mini"
    shutil.copytree(folder / "eval", root / "eval")
    for method in config.methods:
        for seed in config.seeds:
            metrics = {"step": [1, 2], "reward": [0.1, 0.2], "rewards/outcome_reward/mean": [0.1, 0.2]}
            run = root / f"train/{method}/seed{seed}"
            run.mkdir(parents=True)
            pd.DataFrame(metrics).to_csv(run / "metrics.csv", index=False)
            facts = {"wall_seconds": 60.0, "threads": 1, "hardware": {}, "config": {"profile": "mini"}}
            write_json(run / "model.run.json", facts)
    (root / "view.html").write_text(html, encoding="utf-8")
    write_all(root, config)
    return root / "report.html"


@pytest.fixture
def page(browser: Any, report: Path) -> Any:
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    opened.goto(report.as_uri())
    yield opened
    opened.close()


def test_it_opens_on_the_verdicts(page: Any) -> None:
    first = page.locator("li").first
    assert re.match(r"iapo against vtool_r1: \w+.* points \(each run: \S+ \S+; could have found", first.inner_text())
    top = first.bounding_box()["y"]
    assert top < page.locator("table").first.bounding_box()["y"] < 900 < page.locator("img").last.bounding_box()["y"]
    assert page.evaluate("[...document.images].every((each) => each.naturalWidth > 0)")


def test_a_number_opens_its_questions(page: Any) -> None:
    row = page.locator("table").first.locator("tr", has=page.locator("td:first-child", has_text=re.compile("^iapo$")))
    shown = row.locator("td").nth(2).inner_text()
    row.locator("td").nth(2).locator("a").click()
    page.wait_for_selector("#rows td")
    assert page.url.endswith("view.html#set=charxiv&of=iapo")
    assert page.inner_text("#rows thead [data-method=iapo] .share").split()[:2] == ["✓", shown]


def test_what_was_not_evaluated_opens_nothing(page: Any) -> None:
    linked = {link.split("of=")[1] for link in page.eval_on_selector_all("td a", "all => all.map(a => a.hash)")}
    assert linked == {"vtool_r1", "iapo", "untrained", "teacher_untrained"}


@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_fits(browser: Any, report: Path, width: int) -> None:
    opened = browser.new_page(viewport={"width": width, "height": 900})
    opened.goto(report.as_uri())
    opened.eval_on_selector_all("details", "all => all.forEach((each) => (each.open = true))")
    assert opened.evaluate("document.documentElement.scrollWidth") == width
    if width == 1280:
        cut = "all => all.filter((each) => each.scrollWidth > each.clientWidth).length"
        assert opened.eval_on_selector_all(".wide", cut) == 0
    opened.close()


def test_a_run_without_declared_comparisons_says_so(report: Path, config: Config) -> None:
    statistics = replace(config.statistics, primary=())
    write_all(report.parent, replace(config, statistics=statistics))
    assert "<li>none: the methods of this run" in report.read_text()
