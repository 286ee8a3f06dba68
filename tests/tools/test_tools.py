"""The closed list of tools: parsing a model's text, applying calls to a copy."""

import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from iapo.tools.drawing import apply, is_noop, is_right
from iapo.tools.parsing import canonical, parse_turn, render_call
from iapo.tools.registry import TOOLS, tools_for
from iapo.types import Figure, ToolCall

FIGURE = Figure("f", "table", {"rows": {"a": (0, 10, 40, 20), "b": (0, 20, 40, 30)}, "columns": {"x": (20, 0, 40, 30)}})
CALLS = st.builds(ToolCall, st.sampled_from(sorted(TOOLS)), st.lists(st.text(), max_size=4).map(tuple))
MASK_ROWS = '{"name": "focus_on_rows_with_mask", "arguments": '


@given(CALLS)
def test_a_rendered_call_is_read_back(call: ToolCall) -> None:
    assert parse_turn(f"so {render_call(call)} then").calls == [call]


@given(st.text() | st.text().map(lambda text: f"<tool_call>{text}</tool_call>"))
def test_no_text_raises_or_gives_calls_beside_an_error(text: str) -> None:
    turn = parse_turn(text)
    assert turn.error is None or turn.calls == []


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("{", "JSON"),
        ("[]", "name and arguments"),
        ('{"name": "rm", "arguments": {}}', "no such tool"),
        ('{"name": ["x"], "arguments": {}}', "no such tool"),
        (MASK_ROWS + '{"labels": []}}', "rows_to_focus_on"),
        (MASK_ROWS + '{"rows_to_focus_on": "a"}}', "list of strings"),
        (MASK_ROWS + '{"rows_to_focus_on": [1]}}', "list of strings"),
        (MASK_ROWS + '{}, "name": "x"}', "twice"),
        ("__import__('os').system('x')", "JSON"),
        ("[" * 100_000, "JSON"),
        ("1" * 100_000, "expected"),
    ],
)
def test_each_malformed_call_says_what_is_wrong(body: str, says: str) -> None:
    turn = parse_turn(f"<tool_call>{body}</tool_call>")
    assert turn.calls == []
    assert turn.error is not None and says in turn.error and len(turn.error) < 400


def test_truncated_and_nested_tags_are_errors_and_plain_text_is_not() -> None:
    assert parse_turn('<tool_call>{"name": "focus').error
    assert parse_turn("<tool_call><tool_call></tool_call>").error
    assert parse_turn("FINAL ANSWER: 3 </tool_call>").error is None


def test_a_megabyte_is_read_in_linear_time() -> None:
    started = time.perf_counter()
    parse_turn("<tool_call>" * 100_000)
    parse_turn("x" * 1_000_000)
    assert time.perf_counter() - started < 2


def test_the_list_is_refocus_and_the_panel_mask() -> None:
    assert len(TOOLS) == 13
    assert {tool.family for tool in tools_for("h_bar")} == {"x_values", "y_values"}
    assert {tool.family for tool in tools_for("table")} == {"rows", "columns"}
    assert [tool.name for tool in tools_for("subfigures")] == ["focus_on_subfigures_with_mask"]


def test_canonical_calls_ignore_order_and_repetition() -> None:
    name = "focus_on_rows_with_mask"
    assert canonical(ToolCall(name, ("b", "a", "b"))) == canonical(ToolCall(name, ("a", "b")))
    assert canonical(ToolCall(name, ("a",))) != canonical(ToolCall(name, ("b",)))


@pytest.mark.parametrize("mode", ["mask", "draw", "highlight"])
def test_a_tool_edits_a_copy(mode: str) -> None:
    image = Image.new("RGB", (40, 30), "gray")
    before = image.tobytes()
    result = apply(image, FIGURE, [ToolCall(f"focus_on_rows_with_{mode}", ("a",))])
    assert result.error is None and image.tobytes() == before and result.image.tobytes() != before


def test_mask_whites_out_the_other_rows_and_keeps_the_header() -> None:
    image = Image.new("RGB", (40, 30), "gray")
    masked = apply(image, FIGURE, [ToolCall("focus_on_rows_with_mask", ("a",))]).image
    gray, white = (128, 128, 128), (255, 255, 255)
    assert [masked.getpixel((5, y)) for y in (5, 15, 25)] == [gray, gray, white]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (ToolCall("focus_on_rows_with_mask", ("z",)), "no rows 'z'"),
        (ToolCall("focus_on_x_values_with_mask", ("a",)), "no x_values"),
    ],
)
def test_a_call_that_does_not_fit_returns_the_original_and_an_error(call: ToolCall, says: str) -> None:
    image = Image.new("RGB", (40, 30), "gray")
    result = apply(image, FIGURE, [call])
    assert result.image is image and result.error is not None and says in result.error


@given(CALLS, st.lists(st.sampled_from(["a", "b", "x"]), min_size=1))
def test_a_right_call_names_the_labels_and_can_be_carried_out(call: ToolCall, labels: list[str]) -> None:
    for made in (call, replace(call, labels=tuple(reversed(labels)))):
        works = apply(Image.new("RGB", (40, 30)), FIGURE, [made]).error is None
        assert is_right(FIGURE, made, labels) == (works and set(made.labels) == set(labels))


def test_no_ops_leave_the_picture() -> None:
    image = Image.new("RGB", (40, 30), "gray")
    for labels in ((), ("a", "b")):
        call = ToolCall("focus_on_rows_with_mask", labels)
        assert is_noop(FIGURE, call)
        assert apply(image, FIGURE, [call]).image.tobytes() == image.tobytes()
