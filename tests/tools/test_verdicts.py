"""What counts as a call: extra and doubled keys, thoughts, tags in labels, and JSON that ends other readers."""

import json

import pytest

from iapo.rollout.environment import attempts_call
from iapo.rollout.status import call_status
from iapo.teacher.candidates import text_before_call
from iapo.tools.messages import assistant_message
from iapo.tools.parsing import canonical, parse_turn, quoted, render_call
from iapo.tools.registry import tools_for
from iapo.types import ToolCall

NAME = "focus_on_rows_with_mask"
BODY = f'{{"name": "{NAME}", "arguments": {{"rows_to_focus_on": ["a"]}}}}'
CALL = f"<tool_call>{BODY}</tool_call>"
A = ToolCall(NAME, ("a",))
OFFERED = [tool.name for tool in tools_for("table")]


def body(arguments: str, before: str = "", after: str = "") -> str:
    return f'<tool_call>{{{before}"name": "{NAME}", "arguments": {arguments}{after}}}</tool_call>'


@pytest.mark.parametrize(
    "extra",
    ['"id": "c1"', '"type": "function"', '"index": 1e400', '"n": NaN', '"x": {"y": [[1]]}', '"": null'],
)
def test_keys_beside_name_and_arguments_are_ignored(extra: str) -> None:
    sound = '{"rows_to_focus_on": ["a"]}'
    for text in (body(sound, before=extra + ", "), body(sound, after=", " + extra)):
        assert parse_turn(text).calls == [A]
        # No reader behind this one sees them.
        (call,) = assistant_message(text, OFFERED)["tool_calls"]
        assert call["function"] == {"name": NAME, "arguments": {"rows_to_focus_on": ["a"]}}


@pytest.mark.parametrize(
    "text",
    [
        body("{}", after=', "arguments": {"rows_to_focus_on": ["a"]}'),
        body('{"rows_to_focus_on": ["a"]}', before='"name": "x", '),
        body('{"rows_to_focus_on": ["a"]}', before='"n\\u0061me": "x", '),
        body('{"rows_to_focus_on": [], "rows_to_focus_on": ["a"]}'),
        body('{"rows_to_focus_on": ["a"]}', after=', "id": 1, "id": 2'),
        body('{"rows_to_focus_on": ["\\ud83d"]}'),
        body('{"rows_to_focus_on": ["\\udc00\\ud83d"]}'),
        body('{"rows_to_focus_on": ["a\ud83d"]}'),
        body('{"rows_to_focus_on": ["a"]}', after=f', "deep": {"[" * 200 + "]" * 200}'),
        body("[" * 2000 + "]" * 2000),
        body('{"rows_to_focus_on": ["a"]}', after=', "n": ' + "1" * 5000),
        body('{"rows_to_focus_on": ["a"]}').replace("</tool_call>", ""),
        CALL + "<tool_call>",
        '<tool_call>{"arguments": {"rows_to_focus_on": ["a"]}}</tool_call>',
        '<tool_call>{"name": null, "arguments": {"rows_to_focus_on": ["a"]}}</tool_call>',
    ],
)
def test_what_cannot_be_read_with_certainty_is_malformed_and_handed_to_nobody(text: str) -> None:
    turn = parse_turn(text)
    assert turn.calls == [] and turn.error is not None
    turn.error.encode()
    assert assistant_message(text, OFFERED) == {"role": "assistant", "content": text}
    assert call_status(text, False) == "malformed"


@pytest.mark.parametrize(
    "arguments",
    [
        *("null", '"rows_to_focus_on"', "[]", "3", "{}", '{"rows_to_focus_on": null}', '{"rows_to_focus_on": [["a"]]}'),
        *('{"rows_to_focus_on": "a"}', '{"rows_to_focus_on": [1e400]}', '{"rows_to_focus_on": ["a"], "id": 1}'),
    ],
)
def test_of_a_turn_with_wrong_arguments_only_the_faulty_call_is_handed_on(arguments: str) -> None:
    text = CALL + body(arguments) + CALL
    assert parse_turn(text).calls == [] and call_status(text, False) == "malformed"
    (call,) = assistant_message(text, OFFERED)["tool_calls"]
    written = json.loads(arguments)
    assert call["function"]["arguments"] == ({} if written is None else written)


def test_a_call_whose_tool_is_not_offered_stops_the_others_of_its_turn() -> None:
    other = render_call(ToolCall("focus_on_x_values_with_mask", ("a",)))
    (call,) = assistant_message(CALL + other, OFFERED)["tool_calls"]
    assert call["function"]["name"] == "focus_on_x_values_with_mask"
    assert call_status(CALL + other, False) == "failed"


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        (f"<think>maybe {CALL} no</think>\nFINAL ANSWER: 3", []),
        (f"<think>maybe {CALL}", []),
        (f"<think>maybe <tool_call></think>{CALL}", [A]),
        (f"<think><think></think>{CALL}</think>", [A]),
        (f"</think>{CALL}", [A]),
        (f"<think>{CALL}</think>{CALL}<think>{CALL}</think>", [A]),
    ],
)
def test_a_thought_calls_nothing(text: str, calls: list[ToolCall]) -> None:
    turn = parse_turn(text)
    assert (turn.calls, turn.error) == (calls, None)
    assert attempts_call(text) == bool(calls)
    assert call_status(text, bool(calls)) == ("executed" if calls else "none")
    assert len(assistant_message(text, OFFERED).get("tool_calls", [])) == len(calls)
    # The teacher's cache puts a call behind the text before another one.
    if calls:
        assert parse_turn(text_before_call(text) + CALL).calls == [A]


@pytest.mark.parametrize("label", ["<tool_call>", "</tool_call>", "<think>", "a</tool_call></tool_call>", '"\\/'])
def test_a_label_may_hold_a_tag(label: str) -> None:
    call = ToolCall(NAME, (label,))
    assert parse_turn(render_call(call)).calls == [call]
    assert json.loads(canonical(call))["arguments"]["rows_to_focus_on"] == [label]


def test_the_content_of_a_message_is_the_turn_without_its_calls() -> None:
    assert assistant_message(f"I look. {CALL} then {CALL}", OFFERED)["content"] == "I look.  then"
    answer = "<think>hm</think> FINAL ANSWER: 3 "
    assert assistant_message(answer, OFFERED) == {"role": "assistant", "content": answer}


def test_a_message_spells_no_special_token_and_repeats_no_long_name() -> None:
    assert "<|image_pad|>" not in quoted("<|image_pad|>") and len(quoted("x" * 1000)) < 100
    text = f'<tool_call>{{"name": "{"<|image_pad|>" * 100}", "arguments": {{}}}}</tool_call>'
    name = assistant_message(text, OFFERED)["tool_calls"][0]["function"]["name"]
    assert "<|" not in name and len(name) < 100
