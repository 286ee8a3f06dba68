"""A results folder whose policies make every kind of call, among them one whose answer is written to break the page."""

import io
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks.records import write_records
from benchmarks.results import Results, load_results
from benchmarks.viewer.page import page
from benchmarks.viewer.rollouts import rollouts
from iapo.config.schema import Config, StudentConfig
from iapo.data.store import read_split
from iapo.tools.parsing import canonical, parse_turn, render_call
from iapo.tools.registry import tools_for
from iapo.types import Example, ToolCall

CONFIG = Config(
    profile="mini",
    methods=("vtool_r1", "iapo"),
    seeds=(3, 5),
    test_sets=("charxiv", "h_bar"),
    student=StudentConfig(cold_starts=2),
)
HOSTILE = "</script><img src=x onerror=\"document.title='broken'\"><!-- \ud83d"
"""An answer that would end the block of data, load a picture and run a script, and that no UTF-8 can hold."""


_BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A browser of the system, else the one that playwright installed."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright (the extra dev)")
    path = next(filter(None, map(shutil.which, _BROWSERS)), None)
    with sync_api.sync_playwright() as playwright:
        try:
            found = playwright.chromium.launch(executable_path=path)
        except sync_api.Error:
            pytest.skip("found no browser; apt install chromium-headless-shell, or playwright install chromium")
        yield found
        found.close()


@pytest.fixture(scope="session")
def config() -> Config:
    return CONFIG


@pytest.fixture(scope="session")
def hostile() -> str:
    return HOSTILE


def first_turn(example: Example, index: int) -> str:
    """Of every five questions: the right call, another label, a label that is not there, no JSON, no call."""
    tool = tools_for(example.figure.kind)[-1]
    labels = list(example.figure.boxes[tool.family])  # type: ignore[index]
    other = [label for label in labels if label not in example.focus_labels]
    kind = index % 5
    if kind >= 3:
        return ("<tool_call>{no}</tool_call>", "FINAL ANSWER: 1")[kind - 3]
    named = (example.focus_labels, tuple(other[:1]), ("nowhere",))[kind]
    return render_call(ToolCall(tool.name, tuple(named)))


def record(method: str, seed: int, example: Example, index: int) -> dict[str, Any]:
    """A policy that is right on every second question, with a tool that helps on every fourth."""
    turn = first_turn(example, index + seed)
    calls, called = parse_turn(turn).calls, "<tool_call>" in turn
    executed = bool(calls) and calls[0].labels != ("nowhere",)
    right = index % 2 == (method != "iapo")
    answer = example.answer if right else HOSTILE
    reply = "<image>" if executed else "{'error': 'no'}"
    return {
        "method": method, "seed": seed, "test_set": example.test_set, "example_id": example.example_id,
        "figure_id": example.figure.figure_id, "cluster": example.example_id, "gold": example.answer,
        "turns": json.dumps([turn, reply, f"FINAL ANSWER: {answer}"] if called else [turn]),
        "call": canonical(calls[0]) if calls else None, "answer": answer.encode("utf-8", "replace").decode(),
        "score": float(right), "score_official": None, "called": called, "call_ok": executed,
        "call_right": executed and calls[0].names(example.focus_labels), "truncated": False,
        "answer_original": "no", "score_original": 0.0, "answer_off": "7", "score_off": float(index % 4 == 0),
    }  # fmt: skip


@pytest.fixture(scope="session")
def folder(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``results/mini`` after an evaluation; the teacher is not evaluated."""
    root = tmp_path_factory.mktemp("viewed") / "mini"
    root.mkdir()
    (root / "data").symlink_to(data_root)
    for method, seed in CONFIG.evaluated_runs:
        if method != "teacher":
            rows = [
                record(method, seed, example, index)
                for test_set in CONFIG.test_sets
                for index, example in enumerate(read_split(data_root, "test", [test_set]))
            ]
            write_records(root / f"eval/{method}/seed{seed}/records.parquet", rows)  # type: ignore[arg-type]
    return root


@pytest.fixture(scope="session")
def results(folder: Path) -> Results:
    return load_results(folder, CONFIG)


@pytest.fixture(scope="session")
def examples(data_root: Path) -> list[Example]:
    return read_split(data_root, "test", CONFIG.test_sets)


@pytest.fixture(scope="session")
def shown(results: Results, examples: list[Example]) -> tuple[dict[str, Any], dict[str, Any]]:
    return rollouts(results, examples)


@pytest.fixture(scope="session")
def html(shown: tuple[dict[str, Any], dict[str, Any]]) -> str:
    return page(*shown)


@pytest.fixture
def large(examples: list[Example]) -> Example:
    """A question on a figure that is larger than the page shows."""

    example = next(each for each in examples if each.test_set == "h_bar")
    image = Image.effect_noise((1000, 800), 60).convert("RGB")
    content = io.BytesIO()
    image.save(content, "PNG")
    boxes = {"y_values": {"top": (0, 0, 1000, 100), "bottom": (0, 700, 1000, 800)}}
    return replace(example, image_png=content.getvalue(), figure=replace(example.figure, boxes=boxes))
