"""Raw records: golds as their sources write them, texts that no tokenizer or file takes, boxes from anywhere."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from iapo.data.ingest import Reading, read_record
from iapo.data.records import LeftOutError, Record
from iapo.types import TEST_SETS

CHARTS, TABLES = ("h_bar", "v_bar"), ("vwtq", "vwtq_syn")
WIDTH, HEIGHT = 100, 80


def picture() -> bytes:
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    image.paste("black", (10, 10, 60, 60))
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


PICTURE = picture()


def read(answer: Any = "1", test_set: str = "v_bar", name: str = "r1", **fields: Any) -> Reading:
    record = {
        "query": "q",
        "prompt": "q",
        "answer": answer,
        "x_values": [],
        "y_values": [],
        "x_bboxes": [],
        "y_bboxes": [],
        "row_starters": [],
        "column_headers": [],
        "rows_bbox": [],
        "columns_bbox": [],
        **fields,
    }
    return read_record(Record(Path("records.json"), name, record), PICTURE, test_set=test_set, split="test")


def reason(*args: Any, **fields: Any) -> str:
    with pytest.raises(LeftOutError, match=r"records\.json, record") as left_out:
        read(*args, **fields)
    return left_out.value.reason


@pytest.mark.parametrize("test_set", CHARTS)
@pytest.mark.parametrize(
    ("raw", "stored"),
    [
        ("[Norway, Chad]", "Norway|||Chad"),
        ("[1.34, 1.37]", "1.34|||1.37"),
        ("[Kenya , 22]", "Kenya|||22"),
        ("[Germany,United States]", "Germany|||United States"),
        (" [ a,b , c ] ", "a|||b|||c"),
        ("['a, b', 'c']", "a, b|||c"),
        ("['a, b', 3]", "a, b|||3"),
        ("""["Côte d'Ivoire", 'it\\'s [1]']""", "Côte d'Ivoire|||it's [1]"),
        ("[Côte d'Ivoire, Chad]", "Côte d'Ivoire|||Chad"),
        ('["61 years and older"]', "61 years and older"),
        ("[7]", "7"),
        ("[1,234, 5,678]", "1,234|||5,678"),
        (["[a, b]", 2.0], "a|||b|||2"),
        ("a|b", "a|b"),
        ("Yes, almost all [1]", "Yes, almost all [1]"),
        ("[1] and [2]", "[1] and [2]"),
        ("a, b", "a, b"),
    ],
)
def test_a_list_in_brackets_is_several_answers_of_a_chart(test_set: str, raw: Any, stored: str) -> None:
    assert read(raw, test_set).example.answer == stored


@pytest.mark.parametrize("test_set", TABLES)
@pytest.mark.parametrize(
    ("raw", "stored"),
    [
        ("71|72", "71|||72"),
        ("D | 118", "D|||118"),
        ("a|||b|c|", "a|||b|||c"),
        ('Maybe|"A, B"', 'Maybe|||"A, B"'),
        ("[a, b]", "[a, b]"),
        ("Chad [1]", "Chad [1]"),
        ("[1]", "[1]"),
        ("none", "none"),
    ],
)
def test_bars_part_the_answers_of_a_table(test_set: str, raw: str, stored: str) -> None:
    assert read(raw, test_set).example.answer == stored


@pytest.mark.parametrize("raw", ["[0, 1]", "a|b", "['x', 'y']"])
def test_other_sets_take_their_answers_as_they_are(raw: str) -> None:
    assert read(raw, "charxiv").example.answer == raw
    assert reason("0|1", "vtabfact") == "no truth value"


@pytest.mark.parametrize("test_set", TEST_SETS)
@pytest.mark.parametrize("raw", ["NaN", "Infinity", "null", "[]", '""', '" "', "[NaN, 3]", '["a", null]', "{}"])
def test_a_missing_gold_is_no_answer(test_set: str, raw: str) -> None:
    assert reason(json.loads(raw), test_set) == "no answer"


@pytest.mark.parametrize("raw", ["nan", "NaN", "NAN", "None", "null", " NaN "])
def test_words_for_a_missing_gold_are_no_answer_unless_they_are_labels(raw: str) -> None:
    for test_set in TEST_SETS:
        assert reason(raw, test_set) == "no answer"
    label = raw.strip()
    reading = read(raw, x_values=[label], x_bboxes=[{"x1": 0, "y1": 0, "x2": 0.5, "y2": 1}])
    assert reading.example.answer == label
    assert reason(f"[3, {raw}]") == reason(f"3|{raw}", "vwtq") == reason("[]") == reason("|", "vwtq") == "no answer"


@given(st.text(alphabet="[]'\"|, \\a1é", max_size=30))
def test_any_gold_is_read_or_left_out(raw: str) -> None:
    for test_set in (*CHARTS, *TABLES):
        try:
            parts = read(raw, test_set).example.answer.split("|||")
        except LeftOutError as error:
            assert error.reason == "no answer"
        else:
            assert all(part.strip() for part in parts) or "|||" in raw


BOX = {"x1": 0, "y1": 0, "x2": 0.5, "y2": 1}
SPECIAL = ["<|image_pad|>", "<|im_end|>", "<|vision_start|>", "<|endoftext|>", "<tool_call>", "</tool_call>", "<think>"]


@pytest.mark.parametrize("token", SPECIAL)
def test_special_tokens_in_texts_are_named(token: str) -> None:
    text = f"what is {token} ?"
    assert reason(query=text) == "special token"
    assert reason(prompt=text, test_set="charxiv") == "special token"
    assert reason(answer=f"a {token}") == "special token"
    assert reason(x_values=["b", token], x_bboxes=[BOX, BOX]) == "special token"
    assert reason(test_set="vwtq", row_starters=["b", token], rows_bbox=[BOX, BOX]) == "special token"
    with pytest.raises(LeftOutError, match=rf"'r1'.*found {token}".replace("|", r"\|")):
        read(query=text)


@pytest.mark.parametrize("text", ["a < b | c > d", "<b>", "x <|> y", "|im_end|", "tool_call", "<| x |>", "〈|x|〉"])
def test_text_that_only_resembles_a_special_token_stays(text: str) -> None:
    reading = read(text, "charxiv", prompt=text)
    assert (reading.example.request, reading.example.answer) == (text, text)


def test_halves_of_surrogate_pairs_are_named() -> None:
    half = json.loads('"\\ud83d"')
    assert reason(query=f"a {half}") == reason(answer=half) == reason(name=half) == "lone surrogate"
    assert reason(x_values=[half], x_bboxes=[BOX]) == "lone surrogate"
    assert read(query=json.loads('"\\ud83d\\ude00"')).example.request == "😀"


def test_a_box_that_is_not_finite_is_dropped_and_the_others_stay() -> None:
    for value in (float("nan"), float("inf"), -float("inf"), "nan"):
        reading = read(x_values=["a", "b"], x_bboxes=[BOX, {**BOX, "x2": value}], focus_areas=[{**BOX, "x2": value}])
        assert reading.example.figure.boxes == {"x_values": {"a": (0, 0, 50, 80)}}
        assert reading.oddities["box not finite"] == ["b"] and len(reading.oddities["focus area without a label"]) == 1
    assert read(x_values=["b"], x_bboxes=[{**BOX, "x2": float("nan")}]).oddities["no boxes"] == []


def test_one_wrong_box_does_not_decide_about_the_unit_of_the_others() -> None:
    far = {**BOX, "x2": 10**9}
    reading = read(x_values=["a", "b", "c", "d"], x_bboxes=[BOX, BOX, far, {**BOX, "x1": -1e300}])
    assert reading.unit == "fraction"
    half, whole = (0, 0, 50, 80), (0, 0, 100, 80)
    assert reading.example.figure.boxes == {"x_values": {"a": half, "b": half, "c": whole, "d": half}}
    assert reading.oddities == {"box clipped": ["c", "d"]}


NUMBERS = st.floats() | st.integers(-(10**12), 10**12) | st.floats(-0.5, 1.5)


@given(st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS), min_size=1, max_size=5))
def test_any_numbers_are_boxes_in_the_picture_or_named(corners: list[tuple[float, ...]]) -> None:
    labels = [f"l{i}" for i in range(len(corners))]
    reading = read(x_values=labels, x_bboxes=list(map(list, corners)), focus_areas=list(map(list, corners)))
    kept = reading.example.figure.boxes.get("x_values", {})
    for left, top, right, bottom in kept.values():
        assert 0 <= left < right <= WIDTH and 0 <= top < bottom <= HEIGHT
    named = {label for kind in ("box not finite", "box without area") for label in reading.oddities.get(kind, [])}
    assert kept.keys() | named == set(labels) and not kept.keys() & named
