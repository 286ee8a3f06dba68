"""Training's rollouts: their page's data by hand, and the page in a browser."""

import base64
import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.viewer.page import page
from benchmarks.viewer.training import SET, KeptRolloutsError, training_rollouts
from benchmarks.viewer.write import write_training_viewer
from iapo.artifacts.code_digest import ROOT
from iapo.config.schema import Config
from iapo.data.prompts import open_image
from iapo.data.store import figure_to_json
from iapo.teacher.cache import HIT_KINDS
from iapo.tools import apply
from iapo.tools.parsing import render_call
from iapo.tools.registry import tools_for
from iapo.training.kept_rollouts import kept_path, write_kept
from iapo.training.side_files import side_files
from iapo.types import Example, ToolCall

SIZE = 4
OUTCOMES = [[1.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]]
"""Of two groups; the second is flat."""


def row(example: Example, step: int, group: int, place: int, compared: bool, hostile: str) -> dict[str, Any]:
    tool = tools_for(example.figure.kind)[-1]
    call = ToolCall(tool.name, example.focus_labels if place % 2 else ("nowhere",))
    outcome = OUTCOMES[group][place]
    penalty = {"reward/alignment_reward": -0.25, "weight/alignment_reward": 0.5} if compared else {}
    return {
        "step": step, "group": group, "example_id": example.example_id,
        "image": {"bytes": example.image_png, "path": None}, "request": example.request, "answer": example.answer,
        "focus_labels": list(example.focus_labels), "figure": figure_to_json(example.figure),
        "turns": [render_call(call), "<image>" if place % 2 else "{'error': 'no'}", f"FINAL ANSWER: {hostile[:-1]}"],
        "call_status": "executed" if place % 2 else "failed", "advantage": 0.0 if group else 2 * outcome - 1,
        "reward/outcome_reward": outcome, "weight/outcome_reward": 1.0, **penalty,
        "cache_hit": ("exact", "nearest")[group] if compared else None,
        "student_shares": [0.5, 0.25, 0.25, 0.0] if compared else None,
        "teacher_shares": [0.25, 0.25, 0.25, 0.25] if compared else None,
    }  # fmt: skip


@pytest.fixture(scope="module")
def trained(examples: list[Example], config: Config, hostile: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder in which one of two seeds of each method kept rollouts, of two steps."""
    folder = tmp_path_factory.mktemp("trained")
    for method in config.methods:
        for step in (10, 20):
            rows = [
                row(examples[group + step], step, group, place, method == "iapo", hostile)
                for group in range(len(OUTCOMES))
                for place in range(SIZE)
            ]
            write_kept(kept_path(folder / f"train/{method}/seed3/work", step), rows)
    return folder


def test_runs_steps_and_groups_by_hand(trained: Path, config: Config, examples: list[Example]) -> None:
    data, pictures = training_rollouts(trained, config)
    assert [(run["method"], run["seed"]) for run in data["runs"]] == [("vtool_r1", 3), ("iapo", 3)]
    step = data["runs"][1]["steps"][1]
    assert step["step"] == 20 and step["terms"] == {"outcome_reward": 1.0, "alignment_reward": 0.5}
    assert [group["flat"] for group in step["groups"]] == [False, True]
    failed, executed = step["groups"][0]["rollouts"][:2]
    assert (failed["status"], failed["edit"], failed["call_right"]) == ("failed", None, 0)
    assert (executed["status"], executed["call_right"], executed["hit"]) == ("executed", 1, "exact")
    assert executed["rewards"] == [0.0, -0.25] and executed["advantage"] == -1 and executed["student"][0] == 0.5
    question = data["questions"][step["groups"][0]["question"]]
    example = next(each for each in examples if each.example_id == question["id"])
    left, top, _, _, content = pictures[SET]["layers"][executed["edit"]]
    found = open_image(example).convert("RGB")
    layer = Image.open(io.BytesIO(base64.b64decode(content))).convert("RGBA")
    found.paste(layer, (left, top), layer)
    call = ToolCall(tools_for(example.figure.kind)[-1].name, example.focus_labels)
    assert np.array_equal(np.asarray(found), np.asarray(apply(open_image(example), example.figure, [call]).image))
    # Two steps of two groups, the same for both methods: each figure once.
    assert len(data["questions"]) == len(pictures[SET]["figures"]) == 4


@pytest.fixture
def opened(browser: Any, trained: Path, config: Config, tmp_path: Path) -> Iterator[Any]:
    """The page in a window, and what it complains about."""
    file = tmp_path / "view_training.html"
    write_training_viewer(trained, config, file)
    window = browser.new_page(viewport={"width": 1280, "height": 900})
    window.complaints = []
    window.on("console", lambda message: window.complaints.append(message.text))
    window.on("pageerror", lambda error: window.complaints.append(str(error)))
    window.address = file.as_uri()
    yield window
    assert window.complaints == []
    window.close()


def test_a_run_at_a_step_opens_from_its_address(opened: Any, hostile: str) -> None:
    opened.goto(f"{opened.address}#method=iapo&seed=3&step=10")
    assert opened.inner_text("#count") == "2 of 2 groups kept, 1 flat"
    assert "flat: every advantage is 0" in opened.locator(".group").nth(1).inner_text()
    assert opened.locator(".group").nth(0).locator(".flat").count() == 0
    bars = opened.locator(".group").nth(0).locator("tbody tr").first.locator(".bar")
    assert [bar.get_attribute("aria-label") for bar in bars.all()] == [
        "student: plain text 50 %, request 25 %, image 25 %, tools 0 %",
        "teacher: plain text 25 %, request 25 %, image 25 %, tools 25 %",
    ]
    row = opened.locator(".group").nth(0).locator("tbody tr").first.inner_text()
    assert "−0.250" in row and "▲ 1.000" in row and "cache: exact" in row
    assert hostile[:30] in row and opened.locator("img[src=x]").count() == 0


def test_the_slider_and_the_filters_write_the_address(opened: Any) -> None:
    opened.goto(f"{opened.address}#method=iapo")
    first = opened.locator(".group .id").first.inner_text()
    assert opened.input_value("[name=step]") == "1"
    opened.keyboard.press("ArrowLeft")
    assert (
        opened.url.endswith("#method=iapo&seed=3&step=10") and opened.locator(".group .id").first.inner_text() != first
    )
    opened.locator("[name=step]").fill("1")
    assert (
        opened.url.endswith("#method=iapo&seed=3&step=20") and opened.locator(".group .id").first.inner_text() == first
    )
    opened.locator("[name=step]").fill("0")
    opened.select_option("[name=groups]", "flat")
    assert opened.inner_text("#count") == "1 of 2 groups kept, 1 flat" and "groups=flat" in opened.url
    opened.select_option("[name=groups]", "")
    opened.select_option("[name=hit]", "nearest")
    assert opened.inner_text("#count") == "1 of 2 groups kept, 1 flat"
    opened.select_option("[name=method]", "vtool_r1")
    assert opened.inner_text("#count") == "0 of 2 groups kept, 0 flat"


def test_every_end_of_a_look_up_can_be_chosen(opened: Any) -> None:
    opened.goto(opened.address)
    options = [option.get_attribute("value") for option in opened.locator("[name=hit] option").all()]
    assert options == ["", *HIT_KINDS]


def test_keys_move_between_groups(opened: Any) -> None:
    opened.goto(opened.address)
    for key, group in (("j", "0"), ("j", "1"), ("j", "1"), ("k", "0")):
        opened.keyboard.press(key)
        assert opened.evaluate("document.activeElement.dataset.group") == group
    assert opened.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    opened.keyboard.press("/")
    assert opened.evaluate("document.activeElement.name") == "method"


@pytest.mark.parametrize("width", [1280, 400])
def test_nothing_sticks_out(opened: Any, width: int) -> None:
    opened.set_viewport_size({"width": width, "height": 900})
    opened.goto(f"{opened.address}#method=iapo")
    assert opened.evaluate("document.documentElement.scrollWidth") == width


def test_a_damaged_file_is_named_and_what_to_do(trained: Path, config: Config, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "copy")
    path = kept_path(tmp_path / "copy/train/iapo/seed3/work", 10)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(KeptRolloutsError, match=r"step000010\.parquet: found .*remove the file"):
        training_rollouts(tmp_path / "copy", config)
    path.unlink()
    assert len(training_rollouts(tmp_path / "copy", config)[0]["runs"][1]["steps"]) == 1


def test_a_changed_bit_is_known_by_the_run_s_record(trained: Path, config: Config, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(trained, folder)
    run = folder / "train/iapo/seed3"
    path, record = kept_path(run / "work", 10), run / "model.run.json"
    facts = side_files(record, run / "work")
    record.write_text(json.dumps({"outputs": facts}))
    (folder / "tables").mkdir()
    (folder / "tables/main.run.json").write_text(json.dumps({"config": asdict(config)}, default=str))
    assert training_rollouts(folder, config) == training_rollouts(trained, config)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.viewer", str(folder), "--training"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert re.search(r"error: .*step000010\.parquet: found sha256 .*remove the file", done.stderr)


def test_a_run_without_kept_rollouts_says_so(browser: Any, config: Config, tmp_path: Path) -> None:
    file = tmp_path / "view_training.html"
    file.write_text(page(*training_rollouts(tmp_path, config), "training.html"))
    window = browser.new_page()
    window.goto(file.as_uri())
    assert window.inner_text("#count") == "No rollouts of training were kept with these results."
    window.close()
