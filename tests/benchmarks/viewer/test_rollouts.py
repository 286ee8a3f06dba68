"""The viewer's data: cells by hand, edits drawn again, and hostile texts that stay text."""

import base64
import hashlib
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from benchmarks.records import RecordsError
from benchmarks.results import Results, load_results
from benchmarks.viewer import pictures as pictures_module
from benchmarks.viewer.__main__ import main
from benchmarks.viewer.pictures import LARGEST_SIDE, DrawingError, Pictures, turn_calls
from benchmarks.viewer.rollouts import call_status, rollouts, run_numbers
from iapo.artifacts.files import write_json
from iapo.config.schema import Config
from iapo.data.prompts import open_image
from iapo.tools import apply
from iapo.types import Example, ToolCall

Shown = tuple[dict[str, Any], dict[str, Any]]


def decoded(content: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(content)))


def composed(figure: str, layer: list[Any]) -> Image.Image:
    """The edited figure as the page shows it: the layer over the figure."""
    left, top, width, height, content = layer
    image, over = decoded(figure).convert("RGB"), decoded(content).convert("RGBA")
    assert over.size == (width, height)
    image.paste(over, (left, top), over)
    return image


def column(shown: dict[str, Any], method: str, seed: int) -> dict[str, list[Any]]:
    return shown["columns"][shown["runs"][method][shown["seeds"].index(seed)]]


def test_cells_by_hand(shown: Shown, examples: list[Example], results: Results) -> None:
    data, _ = shown
    cells = column(data, "iapo", 3)
    # Seed 3 is three questions further in the turns of five kinds.
    assert cells["status"][:5] == ["malformed", "none", "executed", "executed", "failed"]
    assert [data["texts"][number] for number in cells["turns"][1]] == ["FINAL ANSWER: 1"]
    assert cells["call"][0] is None and cells["edit"][0] is None
    label = examples[2].focus_labels[0]
    assert data["texts"][cells["call"][2]] == f"mask subfigures: {label}" and cells["call_right"][2:4] == [1, 0]
    assert data["texts"][cells["call"][4]] == "mask subfigures: nowhere" and cells["edit"][4] is None
    records = results.records
    rows = records[(records["method"] == "iapo") & (records["seed"] == 3)].set_index("example_id")
    for number, question in enumerate(data["questions"]):
        row = rows.loc[question["id"]]
        assert (cells["score"][number], cells["score_off"][number]) == (row["score"], row["score_off"])
        assert data["texts"][cells["answer"][number]] == row["answer"]
        assert question["gold"] == row["gold"] and question["set"] == row["test_set"]
    assert data["methods"] == ["vtool_r1", "iapo", "untrained", "teacher_untrained", "teacher"]


def test_a_policy_that_was_not_evaluated_is_a_gap(shown: Shown) -> None:
    assert shown[0]["runs"]["teacher"] == [None, None]


def test_starts_and_teachers_stand_beside_the_seeds_that_they_belong_to(config: Config) -> None:
    numbers = run_numbers(replace(config, seeds=(3, 5, 8), methods=("iapo",)))
    assert numbers["iapo"] == [3, 5, 8] and numbers["untrained"] == [0, 1, 0] and numbers["teacher"] == [0, 0, 0]
    for row, starts in config.reference_starts.items():
        assert sorted(set(run_numbers(config)[row])) == starts


def test_edits_are_drawn_again_to_the_pixel(shown: Shown, examples: list[Example]) -> None:
    data, pictures = shown
    compared = 0
    for cells in data["columns"]:
        for number, edit in enumerate(cells["edit"]):
            if edit is None:
                continue
            example, question = examples[number], data["questions"][number]
            calls = turn_calls(data["texts"][cells["turns"][number][0]], example)
            expected = apply(open_image(example), example.figure, calls).image
            here = pictures[question["set"]]
            found = composed(here["figures"][question["picture"]], here["layers"][edit])
            assert np.array_equal(np.asarray(found), np.asarray(expected))
            compared += 1
    assert compared > 100


def test_each_question_and_call_is_drawn_once(
    results: Results, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[str, Any]] = []

    def counted(image: Image.Image, figure: Any, calls: Any) -> Any:
        drawn.append((figure.figure_id, calls))
        return apply(image, figure, calls)

    monkeypatch.setattr(pictures_module, "apply", counted)
    rollouts(results, examples)
    executed = results.records[results.records["call_ok"]]
    assert len(drawn) == len(set(drawn)) == len(executed[["figure_id", "call"]].drop_duplicates())
    assert len(drawn) < len(executed) / 2


def test_a_layer_lies_where_the_tool_drew_on_a_figure_that_is_reduced(large: Example) -> None:
    pictures = Pictures()
    assert pictures.add_figure(large) == (LARGEST_SIDE, 512)
    edit = pictures.layer([ToolCall("focus_on_y_values_with_highlight", ("bottom",))])
    layers = pictures.as_json()["layers"]
    assert edit == 0 and layers[0][:4] == [0, 448, 640, 64]
    # Stored with loss, and still redder than it was.
    before, after = (np.asarray(image, float) for image in (decoded(pictures.figures[0]).convert("RGB"), composed(
        pictures.figures[0], layers[0])))  # fmt: skip
    gained = (after - before)[448:].mean(axis=(0, 1))
    assert gained[0] > 10 > 0 > gained[1] and abs((after - before)[:448]).max() == 0
    assert pictures.layer([ToolCall("focus_on_y_values_with_draw", ())]) is None
    with pytest.raises(DrawingError, match="no y_values 'middle'"):
        pictures.layer([ToolCall("focus_on_y_values_with_draw", ("middle",))])


def test_calls_in_vtool_r1_s_syntax_are_drawn_too(large: Example) -> None:
    turn = 'ACTION 0:\n```python\nimage = focus_on_rows_with_mask(image_1, ["top"], rows_bbox)\ndisplay(image)\n```'
    assert turn_calls(turn, large) == [ToolCall("focus_on_y_values_with_mask", ("top",))]


@pytest.mark.parametrize(
    ("called", "call", "ok", "status"),
    [(False, None, False, "none"), (True, None, False, "malformed"), (True, "{}", False, "failed"),
     (True, "{}", True, "executed")],
)  # fmt: skip
def test_status_of_a_call(called: bool, call: str | None, ok: bool, status: str) -> None:
    assert call_status({"called": called, "call": call, "call_ok": ok}) == status


Change = Callable[[pd.DataFrame], pd.DataFrame]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.assign(example_id="test-0 of another run"), "no such question in data/test"),
        (lambda rows: rows.assign(turns='["FINAL ANSWER: 1"]'), "recorded but not in the turn; evaluate this policy"),
    ],
)
def test_records_that_do_not_fit_the_questions_are_named(
    results: Results, examples: list[Example], change: Change, message: str
) -> None:
    rows = results.records
    altered = replace(results, records=change(rows[rows["call_ok"]].iloc[:1]))
    with pytest.raises(RecordsError, match=message):
        rollouts(altered, examples)


class Tags(HTMLParser):
    """The elements of a page, with their attributes, and the content of each script."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.found and self.found[-1][0] == "script" and data.strip():
            self.scripts.append(data)


def test_a_hostile_answer_is_data_and_comes_back_whole(html: str, hostile: str) -> None:
    tags = Tags()
    tags.feed(html)
    assert not [tag for tag, _ in tags.found if tag == "img"]
    assert [attributes.get("type") for tag, attributes in tags.found if tag == "script"] == ["application/json"] * 3 + [
        None
    ]
    data = json.loads(tags.scripts[0])
    assert f"FINAL ANSWER: {hostile}" in data["texts"]
    assert html.encode("utf-8")


def test_the_page_loads_nothing_and_runs_its_own_script_only(html: str) -> None:
    tags = Tags()
    tags.feed(html)
    assert not [attributes for _, attributes in tags.found if {"src", "href"} & set(attributes)]
    (policy,) = [each["content"] for tag, each in tags.found if each.get("http-equiv") == "Content-Security-Policy"]
    assert policy and policy.startswith("default-src 'none'; img-src data:;")
    allowed = re.findall(r"'sha256-(.+?)'", policy)
    style = html.partition("<style>")[2].partition("</style>")[0]
    assert allowed == [
        base64.b64encode(hashlib.sha256(content.encode()).digest()).decode() for content in (style, tags.scripts[-1])
    ]


def test_the_command_writes_equal_bytes_for_equal_records(
    folder: Path, config: Config, html: str, tmp_path: Path
) -> None:
    raw = {"profile": "mini", "methods": config.methods, "seeds": config.seeds, "test_sets": config.test_sets}
    write_json(folder / "tables/main.run.json", {"config": raw | {"student": {"cold_starts": 2}}})
    out = tmp_path / "deep/view.html"
    line = main([str(folder), "--out", str(out)])
    assert line.startswith(f"{out}: ") and out.read_text() == html
    assert load_results(folder, config).config == config
