"""Verdicts of a judge behind a server: what counts as one, what fails, what is kept."""

import base64
import io
import itertools
import math
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageChops, ImageOps

from iapo.config.schema import VerifierConfig
from iapo.data.prompts import open_image
from iapo.rewards.verifier import ToolUse
from iapo.rewards.verifier_server import ServerVerifier, parse_verdict
from iapo.types import Example

MakeUse = Callable[..., ToolUse]
MakeVerifier = Callable[..., ServerVerifier]


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("1", 1), ("0", 0), ("1.", 1), (" 0\n", 0), ("**0**", 0), ("**1.**", 1), ("`1`", 1), ('"0"', 0), ("(1)", 1),
        ("0 because 10 differs", 0), ("1: the label is right", 1), ("1, since it is", 1), ("0\n\nIt hides 2015.", 0),
        ("**1**: right", 1), ("1 - right", 1), ("0 — wrong row", 0), ("1 The row is right.", 1), ("0 (hidden)", 0),
        ("1\n10 is visible", 1),
        ('{"verdict": 1}', 1), (' {"verdict":0}\n', 0), ('```json\n{"verdict": 1}\n```', 1),
        ('```\n{"verdict": 0}```', 0), ('{"verdict": true}', 1),
        ('{"reason": "10 differs", "verdict": 0}', 0), ('{"verdict": 1} It does.', 1),
    ],
)  # fmt: skip
def test_a_verdict_comes_first_and_alone(reply: str, verdict: float) -> None:
    assert parse_verdict(reply) == verdict


@pytest.mark.parametrize(
    "reply",
    [
        "", "10", "01", "yes and no", "The answer is 1 or 0", "0.5", "1,5", "1/2", "1/0", "1 or 0", "1 OR 0", "1, 0",
        "0\n1", "1-0", "-1", "1:1", "1%", "1 %", "1 label is wrong", "0 of 3 rows are right", "1 out of 10", "1st",
        "１", "true", "1. The row is shown.\n2. It is the wrong one.\n\n0", "<think>1</think> 0", "null",
        '{"verdict": 2}', '{"verdict": "1"}', '{"verdict": null}', '{"verdict": 1', '{"Verdict": 1}',
        '{"verdict": [1]}',
        '[{"verdict": 1}]', '{"verdict": 1}{"verdict": 0}', '{"verdict": 1, "verdict": 0}', '{"verdict": 1e999}',
        'Sure: {"verdict": 1}', "{" * 5000, '{"verdict": ' + "9" * 5000 + "}", '{"a":' * 5000,
    ],
)  # fmt: skip
def test_what_is_no_verdict_counts_as_none(reply: str) -> None:
    assert parse_verdict(reply) is None


@pytest.mark.parametrize(
    "reply",
    ["1\n" + "- \n" * 10**6, "1\n" + "\n" * 10**6, "1" + "." * 10**6, "*" * 10**6, "1 " + "\t" * 10**6, "{" * 10**6],
    ids=["points", "lines", "stops", "stars", "tabs", "braces"],
)
def test_a_long_reply_is_parsed_in_linear_time(reply: str) -> None:
    # Quadratic, a million characters would take hours.
    start = time.process_time()
    parse_verdict(reply)
    assert time.process_time() - start < 2


@given(st.text(st.sampled_from("01 2.,:/-*\n'()abOr"), max_size=12) | st.text())
def test_any_verdict_is_the_first_thing_said(reply: str) -> None:
    verdict = parse_verdict(reply)
    if verdict is not None:
        said = re.sub(r"^[\s*_`\"'(\[]*", "", reply)
        assert said.startswith(str(int(verdict))) and not said[1:2].isalnum()


def test_the_judge_sees_question_call_and_edited_image(
    judge: Any, tmp_path: Path, test_examples: list[Example], server_verifier: MakeVerifier, tool_use: MakeUse
) -> None:
    use = tool_use(test_examples[0])
    assert server_verifier(judge.url, tmp_path).verdicts([use]) == [1.0]
    (body,) = judge.bodies
    assert body["temperature"] == 0 and body["model"] == "judge" and body["max_tokens"] == 64
    assert body["response_format"]["json_schema"]["schema"]["properties"]["verdict"]["enum"] == [0, 1]
    text, image = body["messages"][0]["content"]
    assert test_examples[0].request in text["text"] and test_examples[0].context in text["text"]
    assert use.calls[0].name in text["text"] and use.calls[0].labels[0] in text["text"]
    url = image["image_url"]["url"]
    shown = Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,"))))
    assert ImageChops.difference(shown, use.image).getbbox() is None
    assert ImageChops.difference(shown, open_image(test_examples[0])).getbbox() is not None


def test_a_reply_with_a_one_in_it_is_no_approval(
    judge: Any, tmp_path: Path, test_examples: list[Example], server_verifier: MakeVerifier, tool_use: MakeUse
) -> None:
    judge.reply = lambda number, body: "0 because 10 differs"
    verifier = server_verifier(judge.url, tmp_path)
    assert verifier.verdicts([tool_use(test_examples[0])]) == [0.0] and verifier.last_failure == ""


def test_a_server_that_recovers_is_asked_again(
    judge: Any, tmp_path: Path, test_examples: list[Example], server_verifier: MakeVerifier, tool_use: MakeUse
) -> None:
    judge.reply = lambda number, body: [500, "perhaps", "1: the label is right"][number]
    verifier = server_verifier(judge.url, tmp_path)
    assert verifier.verdicts([tool_use(test_examples[0])]) == [1.0]
    assert len(judge.bodies) == 3 and verifier.last_failure == ""


@pytest.mark.parametrize(
    ("reply", "cause"),
    [
        (500, "InternalServerError"),
        ("10", "a reply that does not begin with 1 or 0: '10'"),
        ("", "a reply that does not begin"),
        (b"<html>1</html>", "expected a chat completion"),
        (b"{cut of", "JSON"),
        (b'{"choices": []}', "expected a chat completion"),
        (b'{"choices": [{"message": {"content": null}}]}', "a reply that does not begin with 1 or 0: ''"),
    ],
    ids=["500", "ten", "empty", "page", "broken", "no-choices", "null"],
)
def test_a_failure_is_tried_again_and_then_no_verdict(
    judge: Any,
    tmp_path: Path,
    test_examples: list[Example],
    reply: str | int | bytes,
    cause: str,
    server_verifier: MakeVerifier,
    tool_use: MakeUse,
) -> None:
    judge.reply = lambda number, body: reply
    verifier = server_verifier(judge.url, tmp_path)
    (verdict,) = verifier.verdicts([tool_use(test_examples[0])])
    assert math.isnan(verdict) and len(judge.bodies) == 3
    assert cause in verifier.last_failure and judge.url in verifier.last_failure
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("reply", "cause"), [(404, "NotFoundError"), (None, "no complete reply within 0.3 s")])
def test_what_cannot_change_is_not_asked_again(
    judge: Any,
    tmp_path: Path,
    test_examples: list[Example],
    reply: int | None,
    cause: str,
    server_verifier: MakeVerifier,
    tool_use: MakeUse,
) -> None:
    judge.reply = lambda number, body: reply
    verifier = server_verifier(judge.url, tmp_path, timeout=0.3)
    (verdict,) = verifier.verdicts([tool_use(test_examples[0])])
    assert math.isnan(verdict) and len(judge.bodies) == 1 and cause in verifier.last_failure


def test_pauses_grow(
    judge: Any,
    tmp_path: Path,
    test_examples: list[Example],
    server_verifier: MakeVerifier,
    tool_use: MakeUse,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.1)
    times: list[float] = []
    judge.reply = lambda number, body: times.append(time.monotonic()) or 503
    server_verifier(judge.url, tmp_path, retries=3).verdicts([tool_use(test_examples[0])])
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert len(pauses) == 3 and all(pause >= 0.75 * 0.1 * 2**i for i, pause in enumerate(pauses))


def test_a_refusal_of_one_question_is_no_refusal_of_all(
    judge: Any, tmp_path: Path, test_examples: list[Example], server_verifier: MakeVerifier, tool_use: MakeUse
) -> None:
    uses = [tool_use(each) for each in test_examples[:2]]
    refused = uses[0].question
    judge.reply = lambda number, body: 400 if refused in body["messages"][0]["content"][0]["text"] else "1"
    verifier = server_verifier(judge.url, tmp_path)
    verdicts = verifier.verdicts(uses)
    assert math.isnan(verdicts[0]) and verdicts[1] == 1.0 and len(judge.bodies) == 2
    assert verifier.failures == {"refused_request": 1} and verifier.refusal == ""
    # A refusal of the next one alone does not stop the run either: the server has replied before.
    assert math.isnan(verifier.verdicts(uses[:1])[0]) and verifier.refusal == ""


def test_credentials_in_an_address_are_sent_and_not_shown(
    judge: Any,
    tmp_path: Path,
    test_examples: list[Example],
    server_verifier: MakeVerifier,
    tool_use: MakeUse,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG")
    judge.reply = lambda number, body: "1" if number else "perhaps"
    verifier = server_verifier(judge.url.replace("//", "//me:a%40token@"), tmp_path, retries=0)
    use = tool_use(test_examples[0])
    assert math.isnan(verifier.verdicts([use])[0]) and verifier.verdicts([use]) == [1.0]
    assert judge.headers[0]["Authorization"] == f"Basic {base64.b64encode(b'me:a@token').decode()}"
    assert judge.url in verifier.last_failure
    assert not any(hidden in verifier.last_failure + caplog.text for hidden in ("a%40token", "a@token", "bWU6"))


@pytest.mark.parametrize("key", ["sk-EXAMPLE-1\n", " sk-EXAMPLE-1\r\n"])
def test_the_blanks_around_a_key_are_no_part_of_it(
    judge: Any,
    tmp_path: Path,
    test_examples: list[Example],
    server_verifier: MakeVerifier,
    tool_use: MakeUse,
    monkeypatch: pytest.MonkeyPatch,
    key: str,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    assert server_verifier(judge.url, tmp_path).verdicts([tool_use(test_examples[0])]) == [1.0]
    assert judge.headers[0]["Authorization"] == "Bearer sk-EXAMPLE-1"


def test_an_address_that_is_none_is_refused_without_its_token(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^http://\*\*\*@host:x/v1: it is no address") as error:
        ServerVerifier(VerifierConfig(base_url="http://me:token@host:x/v1"), tmp_path)
    assert "token" not in str(error.value)


def test_a_refused_connection_is_no_verdict(
    tmp_path: Path, test_examples: list[Example], server_verifier: MakeVerifier, refused_url: str, tool_use: MakeUse
) -> None:
    verifier = server_verifier(refused_url, tmp_path)
    assert math.isnan(verifier.verdicts([tool_use(test_examples[0])])[0])
    assert "APIConnectionError" in verifier.last_failure


def test_a_verdict_is_read_from_disk_by_every_job(
    judge: Any, tmp_path: Path, test_examples: list[Example], server_verifier: MakeVerifier, tool_use: MakeUse
) -> None:
    uses = [tool_use(each) for each in test_examples[:2]]
    assert server_verifier(judge.url, tmp_path).verdicts([*uses, uses[0]]) == [1.0] * 3
    assert len(judge.bodies) == 2 and len(list(tmp_path.iterdir())) == 2
    judge.reply = lambda number, body: "0"
    again = server_verifier(judge.url, tmp_path)
    assert again.verdicts(uses) == [1.0] * 2 and len(judge.bodies) == 2
    # Other pixels or another model are another request.
    other = replace(uses[0], image=ImageOps.invert(uses[0].image))
    assert again.verdicts([other]) == [0.0] and len(judge.bodies) == 3
    assert server_verifier(judge.url, tmp_path, model="other").verdicts(uses[:1]) == [0.0] and len(judge.bodies) == 4


@pytest.mark.parametrize("damage", [lambda text: "{", lambda text: text.replace('"reply": "1"', '"reply": "0"')])
def test_a_kept_reply_that_a_disk_has_damaged_is_asked_for_again(
    judge: Any,
    tmp_path: Path,
    test_examples: list[Example],
    server_verifier: MakeVerifier,
    tool_use: MakeUse,
    damage: Callable[[str], str],
) -> None:
    uses = [tool_use(test_examples[0])]
    assert server_verifier(judge.url, tmp_path).verdicts(uses) == [1.0]
    (path,) = tmp_path.iterdir()
    path.write_text(damage(path.read_text()))
    for _ in range(2):
        # Put right by the first.
        assert server_verifier(judge.url, tmp_path).verdicts(uses) == [1.0] and len(judge.bodies) == 2


def test_requests_run_side_by_side_and_answers_keep_their_order(
    judge: Any, tmp_path: Path, test_examples: list[Example], server_verifier: MakeVerifier, tool_use: MakeUse
) -> None:
    uses = [tool_use(each) for each in test_examples[:24]]
    slow = {use.question for use in uses[::3]}

    def reply(number: int, body: dict[str, Any]) -> str:
        is_slow = any(question in body["messages"][0]["content"][0]["text"] for question in slow)
        time.sleep(0.2 if is_slow else 0.05)
        return "1" if is_slow else "0"

    judge.reply = reply
    expected = [float(use.question in slow) for use in uses]
    assert set(expected) == {0.0, 1.0}
    assert server_verifier(judge.url, tmp_path).verdicts(uses) == expected
    assert judge.max_together > 1
