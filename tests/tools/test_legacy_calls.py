"""VTool-R1's syntax: what its prompts teach is read, everything else is an error, nothing is run."""

import inspect
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iapo.tools.legacy_calls import for_figure, parse_legacy_turn
from iapo.tools.registry import TOOLS
from iapo.types import FigureKind, ToolCall

DRAW_ROWS = "focus_on_rows_with_draw"
MASK_X = "focus_on_x_values_with_mask"
ITALY, Y1990 = ToolCall(DRAW_ROWS, ("Italy",)), ToolCall(MASK_X, ("1990",))
NAMES = st.sampled_from(sorted(TOOLS))
LABELS = st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="`\\")), max_size=4)


def block(code: str) -> str:
    return f"THOUGHT 0: look closer.\nACTION 0:\n```python\n{code}\n```\nOBSERVATION: Execution success."


def one(name: str = DRAW_ROWS, labels: str = '["Italy"]') -> str:
    return f"{name}(image_1, {labels}, rows_bbox)"


@given(NAMES, LABELS)
def test_the_form_of_vtool_r1_s_prompts_is_read(name: str, labels: list[str]) -> None:
    code = f"image_with_focus = {one(name, repr(labels))}\ndisplay(image_with_focus)"
    assert parse_legacy_turn(block(code)).calls == [ToolCall(name, tuple(labels))]


@pytest.mark.parametrize(
    ("code", "calls"),
    [
        (f"display({one()})", [ITALY]),
        (
            f"image = {one()}\nimage = {MASK_X}(image, ['1990'], b)\ndisplay(image)",
            [ITALY, Y1990],
        ),
        (f"display({MASK_X}({one()}, ['1990'], b))", [ITALY, Y1990]),
        (f"a = {one()}\nb = {MASK_X}(image_1, ['1990'], c)\ndisplay(a)\ndisplay(b)", [Y1990]),
        (f"wanted = 'Italy'\nrows = [wanted]\nx = y = {one(labels='rows')}\ndisplay(y)", [ITALY]),
        (
            f"display({DRAW_ROWS}(image_1, all_rows_bounding_boxes=rows_bbox, rows_to_focus_on=['Italy']))",
            [ITALY],
        ),
        (
            f"# a comment\ndisplay({DRAW_ROWS.replace('_', chr(92) + '_')}(image_1, ['Italy'], r))",
            [ITALY],
        ),
        ("display(image_1)", []),
    ],
)
def test_what_is_displayed_last_says_which_calls(code: str, calls: list[ToolCall]) -> None:
    turn = parse_legacy_turn(block(code))
    assert (turn.calls, turn.error) == (calls, None)


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("__import__('os').system('true')", "Call"),
        ("import os", "Import"),
        ("print('x')", "'print'"),
        ("open('x', 'w')", "'open'"),
        ("exec('x')", "'exec'"),
        ("image_1.save('x')", "Call"),
        ("while True: pass", "While"),
        ("x = lambda: 1", "Lambda"),
        ("x[0] = image_1", "Subscript"),
        ("a, b = image_1", "Tuple"),
        ("x: list = ['a']", "AnnAssign"),
        ("display(f'{image_1}')", "JoinedStr"),
        (one("focus_on_cells_with_mask"), "no such tool"),
        (f"display({one(labels='[1990]')})", "expected names, strings"),
        (f"display({one(labels=repr('Italy'))})", "list of strings"),
        (f"display({one(labels='[[]]')})", "expected strings"),
        (f"display({one(labels='rows')})", "stands for nothing"),
        (f"display({DRAW_ROWS}(image_2, ['Italy'], r))", "stands for nothing"),
        (f"display({DRAW_ROWS}(['a'], ['Italy'], r))", "expected an image"),
        (f"display({DRAW_ROWS}(image_1, ['Italy']))", "takes image, rows_to_focus_on"),
        (f"display({DRAW_ROWS}(image_1, ['Italy'], r, image=image_1))", "takes image"),
        (f"display({DRAW_ROWS}(image_1, ['Italy'], {{'Italy': {{}}}}))", "Dict as boxes"),
        (f"display({DRAW_ROWS}(*image_1))", "takes image"),
        (f"display({DRAW_ROWS}(**image_1))", "takes image"),
        ("display(['a'])", "expected an image"),
        ("display(image_1, image_1)", "one image"),
        (f"x = {one()}", "no display"),
        ("", "no display"),
        ("display(", "not Python"),
        ("x = '\0'", "not Python"),
        ("x = '\ud800'", "not Python"),
        ("x = " + "1" * 5000, "not Python"),
        ("x = " + "-" * 9000 + "1", "not Python"),
        ("x = a" + ".a" * 4000, "not Python"),
        ("#" * 20_000, "20000 characters"),
        (f"display({DRAW_ROWS}(image_1, ['a' + 'b'], r))", "BinOp"),
        (f"display({DRAW_ROWS}(image_1, ['\\ud83d'], r))", "which is no text"),
    ],
)
def test_anything_else_is_an_error_that_says_what(code: str, says: str) -> None:
    text = f"```python{code}```"
    turn = parse_legacy_turn(text)
    assert turn.calls == []
    assert turn.error is not None and says in turn.error and len(turn.error) < 400


def test_calls_nested_beyond_python_s_stack_are_an_error() -> None:
    code = f"display({(DRAW_ROWS + '(') * 150}image_1{', [], r)' * 150})"
    assert len(parse_legacy_turn(block(code)).calls) == 150
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 200)
    try:
        error = parse_legacy_turn(block(code)).error
    finally:
        sys.setrecursionlimit(limit)
    assert error is not None and "too deeply" in error


def test_a_turn_without_a_block_has_neither_calls_nor_error() -> None:
    for text in ("FINAL ANSWER: 3. TERMINATE", "", f"```\ndisplay({one()})\n```"):
        turn = parse_legacy_turn(text)
        assert (turn.calls, turn.error) == ([], None)
    assert parse_legacy_turn(f"```python\ndisplay({one()})").error


@pytest.mark.parametrize(
    ("kind", "written", "made"),
    [
        ("v_bar", "columns", "x_values"),
        ("v_bar", "rows", "x_values"),
        ("h_bar", "columns", "y_values"),
        ("h_bar", "rows", "y_values"),
        ("h_bar", "x_values", "x_values"),
        ("v_bar", "y_values", "y_values"),
        ("table", "columns", "columns"),
        ("table", "rows", "rows"),
        ("subfigures", "rows", "rows"),
    ],
)
def test_on_a_chart_the_table_tools_are_given_the_bars(kind: FigureKind, written: str, made: str) -> None:
    for mode in ("mask", "draw", "highlight"):
        call = for_figure(ToolCall(f"focus_on_{written}_with_{mode}", ("1990",)), kind)
        assert call == ToolCall(f"focus_on_{made}_with_{mode}", ("1990",))


def test_only_the_first_block_counts() -> None:
    text = block(f"display({one()})") + block("import os")
    assert parse_legacy_turn(text).calls == [ITALY]


@given(st.text() | st.text().map(block) | st.text("()[]{}=,.'\"\\ \n:_ai1fdisplay").map(block))
def test_no_text_raises_or_gives_calls_beside_an_error(text: str) -> None:
    turn = parse_legacy_turn(text)
    assert turn.error is None or turn.calls == []


@given(NAMES, st.sampled_from(["{}", "[{}]", "display({})", "x = {}", "lambda: {}", "f'{{{}}}'", "[{} for x in 'ab']"]))
def test_nothing_that_a_model_writes_is_run(name: str, around: str) -> None:
    marker = Path("legacy-calls-were-run")
    attack = around.format(f"open({str(marker)!r}, 'w')")
    for code in (attack, f"display({name}(image_1, [{attack}], b))", f"display({name}({attack}, [], b))"):
        assert parse_legacy_turn(block(code)).error is not None
    assert not marker.exists()


@pytest.mark.parametrize(
    "piece", ["```python", "(", "display(", "{[(", "a.", "not ", "lambda:", "x = [\n", "\\_", "f'{"]
)
def test_a_megabyte_is_read_in_linear_time(piece: str) -> None:
    started = time.perf_counter()
    parse_legacy_turn(piece * (1_000_000 // len(piece)))
    parse_legacy_turn(block(piece * (9_000 // len(piece))))
    assert time.perf_counter() - started < 2
