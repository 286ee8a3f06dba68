"""The verifiers of ``trm``: strict verdicts, an unreliable server, the teacher's own answer, the trainer's column."""

import base64
import copy
import io
import itertools
import json
import math
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageChops, ImageOps
from trl import GRPOConfig

from iapo.answers import extract, score
from iapo.cold_start import collate
from iapo.config import VerifierConfig
from iapo.demonstrations import Demonstration, run_call, spoken_answer
from iapo.env import ENVIRONMENTS, tool_schemas
from iapo.processor import UNSAMPLED_TOKENS
from iapo.prompts import Message, answer_text, open_image, prompt_messages
from iapo.tools import apply, render_call
from iapo.train import dataset_row
from iapo.types import Example, ToolCall
from iapo.verifier import ServerVerifier, TeacherVerifier, ToolUse, VerifierError, VerifierGuard, parse_verdict
from iapo.verifier_trainer import VerifierTrainer

TURN_TOKENS = 12
WRONG = "11"


def focus(example: Example) -> ToolCall:
    """The annotated call."""
    family = next(f for f, boxes in example.figure.boxes.items() if example.focus_labels[0] in boxes)
    return ToolCall(f"focus_on_{family}_with_mask", example.focus_labels)


def tool_use(example: Example, call: ToolCall | None = None) -> ToolUse:
    calls = (call or focus(example),)
    edited = apply(open_image(example), example.figure, calls)
    assert edited.error is None
    return ToolUse(dataset_row(example), calls, edited.image)


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("1", 1), ("0", 0), ("1.", 1), (" 0\n", 0), ("**0**", 0), ("**1.**", 1), ("`1`", 1), ('"0"', 0), ("(1)", 1),
        ("0 because 10 differs", 0), ("1: the label is right", 1), ("1, since it is", 1), ("0\n\nIt hides 2015.", 0),
        ("**1**: right", 1), ("1 - right", 1), ("0 — wrong row", 0), ("1 The row is right.", 1), ("0 (hidden)", 0),
        ("1\n10 is visible", 1),
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
    ],
)  # fmt: skip
def test_what_is_no_verdict_counts_as_none(reply: str) -> None:
    assert parse_verdict(reply) is None


@given(st.text(st.sampled_from("01 2.,:/-*\n'()abOr"), max_size=12) | st.text())
def test_any_verdict_is_the_first_thing_said(reply: str) -> None:
    verdict = parse_verdict(reply)
    if verdict is not None:
        said = re.sub(r"^[\s*_`\"'(\[]*", "", reply)
        assert said.startswith(str(int(verdict))) and not said[1:2].isalnum()


Reply = str | int | bytes | None
"""What the judge says; an HTTP status; a page that is no completion; silence."""


class Judge:
    """An OpenAI-compatible server on this machine, as unreliable as it is told to be."""

    def __init__(self) -> None:
        self.reply: Callable[[int, dict[str, Any]], Reply] = lambda number, body: "1"
        self.bodies: list[dict[str, Any]] = []
        self.together = self.most_together = 0
        self.closing = threading.Event()
        self._lock = threading.Lock()
        judge = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with judge._lock:
                    number = len(judge.bodies)
                    judge.bodies.append(body)
                    judge.together += 1
                    judge.most_together = max(judge.most_together, judge.together)
                reply = judge.reply(number, body)
                with judge._lock:
                    judge.together -= 1
                if reply is None:
                    judge.closing.wait()
                    return
                status, kind, content = _response(reply)
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"


def _response(reply: str | int | bytes) -> tuple[int, str, bytes]:
    if isinstance(reply, int):
        return reply, "application/json", b'{"error": {"message": "overloaded"}}'
    if isinstance(reply, bytes):
        return 200, "application/json" if reply.startswith(b"{") else "text/html", reply
    message = {"role": "assistant", "content": reply}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    whole = {"id": "1", "object": "chat.completion", "created": 0, "model": "judge", "choices": [choice]}
    return 200, "application/json", json.dumps(whole).encode()


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Iterator[Judge]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    found = Judge()
    thread = threading.Thread(target=found.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield found
    found.closing.set()
    found.server.shutdown()
    found.server.server_close()
    thread.join()


def server_verifier(url: str, folder: Path, **settings: Any) -> ServerVerifier:
    config = VerifierConfig(kind="server", base_url=url, model="judge", retries=2, timeout=5.0)
    return ServerVerifier(replace(config, **settings), folder, first_wait=0.001)


def test_the_judge_sees_question_call_and_edited_image(
    judge: Judge, tmp_path: Path, test_examples: list[Example]
) -> None:
    use = tool_use(test_examples[0])
    assert server_verifier(judge.url, tmp_path).verdicts([use]) == [1.0]
    (body,) = judge.bodies
    assert body["temperature"] == 0 and body["model"] == "judge"
    text, image = body["messages"][0]["content"]
    assert test_examples[0].request in text["text"] and test_examples[0].context in text["text"]
    assert use.calls[0].name in text["text"] and use.calls[0].labels[0] in text["text"]
    url = image["image_url"]["url"]
    shown = Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,"))))
    assert ImageChops.difference(shown, use.image).getbbox() is None
    assert ImageChops.difference(shown, open_image(test_examples[0])).getbbox() is not None


def test_a_reply_with_a_one_in_it_is_no_approval(judge: Judge, tmp_path: Path, test_examples: list[Example]) -> None:
    judge.reply = lambda number, body: "0 because 10 differs"
    verifier = server_verifier(judge.url, tmp_path)
    assert verifier.verdicts([tool_use(test_examples[0])]) == [0.0] and verifier.last_failure == ""


def test_a_server_that_recovers_is_asked_again(judge: Judge, tmp_path: Path, test_examples: list[Example]) -> None:
    judge.reply = lambda number, body: [500, "perhaps", "1: the label is right"][number]
    verifier = server_verifier(judge.url, tmp_path)
    assert verifier.verdicts([tool_use(test_examples[0])]) == [1.0]
    assert len(judge.bodies) == 3 and verifier.last_failure == ""


@pytest.mark.parametrize(
    ("reply", "cause"),
    [
        (500, "InternalServerError"),
        (404, "NotFoundError"),
        ("10", "a reply that does not begin with 1 or 0: '10'"),
        ("", "a reply that does not begin"),
        (b"<html>1</html>", "expected a chat completion"),
        (b"{cut of", "JSON"),
        (b'{"choices": []}', "expected a chat completion"),
        (b'{"choices": [{"message": {"content": null}}]}', "a reply that does not begin with 1 or 0: ''"),
        (None, "APITimeoutError"),
    ],
    ids=["500", "404", "ten", "empty", "page", "broken", "no-choices", "null", "silent"],
)
def test_a_failure_is_tried_again_and_then_no_verdict(
    judge: Judge, tmp_path: Path, test_examples: list[Example], reply: Reply, cause: str
) -> None:
    judge.reply = lambda number, body: reply
    verifier = server_verifier(judge.url, tmp_path, timeout=0.3 if reply is None else 5.0)
    (verdict,) = verifier.verdicts([tool_use(test_examples[0])])
    assert math.isnan(verdict) and len(judge.bodies) == 3
    assert cause in verifier.last_failure and judge.url in verifier.last_failure
    assert list(tmp_path.iterdir()) == []


def test_waits_grow(judge: Judge, tmp_path: Path, test_examples: list[Example]) -> None:
    times: list[float] = []
    judge.reply = lambda number, body: times.append(time.monotonic()) or 503
    config = VerifierConfig(base_url=judge.url, retries=3)
    ServerVerifier(config, tmp_path, first_wait=0.1).verdicts([tool_use(test_examples[0])])
    waits = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert len(waits) == 3 and all(wait >= 0.1 * 2**i for i, wait in enumerate(waits))


def test_a_refused_connection_is_no_verdict(tmp_path: Path, test_examples: list[Example]) -> None:
    verifier = server_verifier(refused_url(), tmp_path)
    assert math.isnan(verifier.verdicts([tool_use(test_examples[0])])[0])
    assert "APIConnectionError" in verifier.last_failure


def refused_url() -> str:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as closed:
        return f"http://127.0.0.1:{closed.server_port}/v1"


def test_a_verdict_is_read_from_disk_by_every_job(judge: Judge, tmp_path: Path, test_examples: list[Example]) -> None:
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
    # A file that a disk has damaged is asked for again, and put right.
    for path in tmp_path.iterdir():
        path.write_text("{")
    assert again.verdicts(uses[:1]) == [0.0] and len(judge.bodies) == 5
    assert server_verifier(judge.url, tmp_path).verdicts(uses[:1]) == [0.0] and len(judge.bodies) == 5


def test_requests_run_side_by_side_and_answers_keep_their_order(
    judge: Judge, tmp_path: Path, test_examples: list[Example]
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
    assert judge.most_together > 1


class Counting:
    """Passes uses on and keeps what was asked."""

    def __init__(self, verifier: Any) -> None:
        self.verifier, self.asked = verifier, []

    @property
    def last_failure(self) -> str:
        return self.verifier.last_failure

    def verdicts(self, uses: Sequence[ToolUse]) -> list[float]:
        self.asked += [use.key for use in uses]
        return self.verifier.verdicts(uses)


def distinct_uses(examples: Sequence[Example], count: int) -> list[ToolUse]:
    found = [tool_use(each) for each in examples[:count]]
    assert len({use.key for use in found}) == count
    return found


def test_equal_tool_uses_are_asked_once_a_run(judge: Judge, tmp_path: Path, test_examples: list[Example]) -> None:
    example = next(each for each in test_examples if each.test_set == "vwtq")
    a, b = list(example.figure.boxes["rows"])[:2]
    one, same, other = (
        tool_use(example, ToolCall("focus_on_rows_with_draw", labels)) for labels in ((a, b), (b, a, b), (a,))
    )
    counting = Counting(server_verifier(judge.url, tmp_path))
    guard = VerifierGuard(counting, 0.0)
    assert guard.verdicts([one, same, other, one]) == [1.0] * 4 and guard.verdicts([same]) == [1.0]
    assert counting.asked == [one.key, other.key] and guard.asked == 2 and guard.failed == 0


def test_a_failed_use_is_asked_again_when_it_comes_back(
    judge: Judge, tmp_path: Path, test_examples: list[Example]
) -> None:
    judge.reply = lambda number, body: "no idea" if number == 0 else "1"
    guard = VerifierGuard(server_verifier(judge.url, tmp_path, retries=0), 0.0)
    use = tool_use(test_examples[0])
    first, second = guard.verdicts([use]), guard.verdicts([use])
    assert math.isnan(first[0]) and second == [1.0] and (guard.asked, guard.failed) == (2, 1)


def test_too_many_failures_stop_the_run_and_say_what_to_do(
    judge: Judge, tmp_path: Path, test_examples: list[Example]
) -> None:
    uses = distinct_uses(test_examples, 24)
    doubtful = [use.question for use in uses[:6]]

    def reply(number: int, body: dict[str, Any]) -> str:
        said = body["messages"][0]["content"][0]["text"]
        return "I cannot tell" if any(question in said for question in doubtful) else "0"

    judge.reply = reply
    verifier = server_verifier(judge.url, tmp_path, retries=0)
    failed = sum(map(math.isnan, verifier.verdicts(uses)))
    assert failed >= 6
    with pytest.raises(VerifierError) as stopped:
        VerifierGuard(verifier, 0.2).verdicts(uses)
    message = str(stopped.value)
    assert f"found {failed} of 24 tool uses without a verdict" in message and "expected at most 20%" in message
    assert judge.url in message and "I cannot tell" in message
    for remedy in ("Start the server", "verifier.timeout", "verifier.most_failures", "last checkpoint"):
        assert remedy in message
    # At the limit and not above it, the run goes on; so it does before 20 were asked.
    tolerant = VerifierGuard(verifier, failed / 24)
    assert sum(map(math.isnan, tolerant.verdicts(uses))) == failed
    assert all(map(math.isnan, VerifierGuard(verifier, 0.0).verdicts(uses[:6])))


def test_a_dead_server_stops_the_run_before_the_whole_batch_has_failed(
    tmp_path: Path, test_examples: list[Example]
) -> None:
    counting = Counting(server_verifier(refused_url(), tmp_path, retries=0))
    with pytest.raises(VerifierError, match=r"found 32 of 32 .*APIConnectionError"):
        VerifierGuard(counting, 0.05).verdicts(distinct_uses(test_examples, 64))
    assert len(counting.asked) == 32


ROLES = ("right", "misread", "failing", "direct")


@pytest.fixture(scope="module")
def cast(test_examples: list[Example]) -> dict[str, Example]:
    """Four questions about tables, by what the memorised model does with each."""
    tables = [each for each in test_examples if each.test_set == "vwtq"]
    return dict(zip(ROLES, {each.figure.figure_id: each for each in tables}.values(), strict=False))


@pytest.fixture(scope="module")
def memorised(tiny: tuple[Any, Any], cast: dict[str, Example]) -> tuple[Any, Any]:
    """The tiny model trained until it knows these conversations by heart: no script, its own sampled tokens."""
    assert len(cast) == 4
    known = [conversation(role, example) for role, example in cast.items()]
    batch = collate([*known, emptied(known[0])], tiny[1])
    model = copy.deepcopy(tiny[0]).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(200):
        optimizer.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.02
    return model.eval(), tiny[1]


def conversation(role: str, example: Example) -> Demonstration:
    image = open_image(example)
    opening = prompt_messages(example, image)
    call = focus(example)
    if role == "failing":
        # Its figure has no such column.
        call = ToolCall("focus_on_columns_with_mask", call.labels)
    said = answer_text(WRONG) if role == "misread" else spoken_answer(example)
    answer = {"role": "assistant", "content": said}
    if role == "direct":
        return Demonstration([*opening, answer], example.figure.kind)
    turn = {"role": "assistant", "content": render_call(call)}
    return Demonstration([*opening, turn, *run_call(example, image, call), answer], example.figure.kind)


def emptied(shown: Demonstration) -> Demonstration:
    """The same, but the tool shows nothing, and the answer is wrong."""
    *before, tool, _ = shown.messages
    blank = {**tool, "content": [{"type": "image", "image": empty(tool["content"][0]["image"])}]}
    return Demonstration([*before, blank, {"role": "assistant", "content": answer_text(WRONG)}], shown.kind)


def empty(image: Image.Image) -> Image.Image:
    return Image.new("RGB", image.size, "black")


def by_hand(model: Any, processor: Any, example: Example, use: ToolUse) -> tuple[dict[str, Any], float]:
    """The same conversation rendered as one text and answered alone."""
    tool: Message = {"role": "tool", "name": "x", "content": [{"type": "image", "image": use.image}]}
    turn = {"role": "assistant", "content": render_call(use.calls[0])}
    messages = [*prompt_messages(example), turn, tool]
    inputs = processor.apply_chat_template(
        [messages], tools=list(tool_schemas(example.figure.kind)), add_generation_prompt=True, tokenize=True,
        return_dict=True, return_tensors="pt",
    )  # fmt: skip
    with torch.no_grad():
        output = model.generate(**inputs, max_new_tokens=TURN_TOKENS, do_sample=False)
    text = processor.tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return inputs, score(extract(text), example.answer, example.metric)


def test_the_teacher_s_verdict_is_its_own_answer_scored(
    memorised: tuple[Any, Any], cast: dict[str, Example], test_examples: list[Example]
) -> None:
    # Another kind of figure beside them, so that the batch is padded.
    examples = [cast["right"], cast["misread"], test_examples[0]]
    uses = [tool_use(example) for example in examples]
    verifier = TeacherVerifier(*memorised, TURN_TOKENS)
    hands = [by_hand(*memorised, example, use) for example, use in zip(examples, uses, strict=True)]
    assert verifier.verdicts(uses) == [verdict for _, verdict in hands]
    assert [verdict for _, verdict in hands][:2] == [1.0, 0.0]
    for mine, (inputs, _) in zip(verifier.conversations(uses), hands, strict=True):
        assert mine.input_ids == inputs["input_ids"][0].tolist()
        assert torch.equal(mine.pixel_values, inputs["pixel_values"])
        assert torch.equal(mine.image_grid_thw, inputs["image_grid_thw"])
    assert verifier.verdicts([]) == []


def test_the_edited_image_decides_the_teacher_s_verdict(memorised: tuple[Any, Any], cast: dict[str, Example]) -> None:
    use = tool_use(cast["right"])
    other = replace(use, image=empty(use.image))
    verifier = TeacherVerifier(*memorised, TURN_TOKENS)
    shown, hidden = verifier.conversations([use, other])
    assert shown.input_ids == hidden.input_ids and len(shown.image_grid_thw) == 2
    first, second = shown.pixel_values.split(shown.image_grid_thw.prod(1).tolist())
    assert torch.equal(first, hidden.pixel_values[: len(first)])
    assert not torch.equal(second, hidden.pixel_values[len(first) :]) and not torch.equal(first, second)
    assert verifier.verdicts([use, other, use]) == [1.0, 0.0, 1.0]


def one_step(model: Any, processor: Any, cast: dict[str, Example], verifier: Any, output: Path) -> tuple[Any, ...]:
    """One GRPO step of two rollouts for each question: verdicts by role, the step's log, the trainer."""
    seen: dict[str, list[float]] = {}
    roles = {example.example_id: role for role, example in cast.items()}

    def spy(completions: Any, verdict: list[float], example_id: list[str], **_: Any) -> list[float]:
        for name, value in zip(example_id, verdict, strict=True):
            seen.setdefault(roles[name], []).append(value)
        return [float(i) for i in range(len(verdict))]

    trainer = VerifierTrainer(
        model=copy.deepcopy(model),
        processing_class=processor,
        args=GRPOConfig(
            output_dir=str(output), max_steps=1, per_device_train_batch_size=8, num_generations=2, temperature=0.05,
            max_completion_length=64, max_tool_calling_iterations=1, use_cpu=True, bf16=False,
            gradient_checkpointing=False, report_to="none", logging_steps=1, disable_tqdm=True, save_strategy="no",
            generation_kwargs={"suppress_tokens": processor.tokenizer.convert_tokens_to_ids(list(UNSAMPLED_TOKENS))},
        ),
        train_dataset=Dataset.from_list([dataset_row(example) for example in cast.values()]),
        reward_funcs=[spy],
        environment_factory=ENVIRONMENTS,
        verifier=verifier,
        most_failures=0.05,
    )  # fmt: skip
    trainer.train()
    return seen, next(log for log in trainer.state.log_history if "reward" in log), trainer


def test_a_step_hands_the_verdicts_to_the_rewards(
    tmp_path: Path, memorised: tuple[Any, Any], cast: dict[str, Example]
) -> None:
    counting = Counting(TeacherVerifier(*memorised, TURN_TOKENS))
    seen, log, trainer = one_step(*memorised, cast, counting, tmp_path)
    # The model did what it was taught: calls that ran, one that failed, none.
    called = {environment.succeeded for environment in trainer.environments}
    assert called == {True, False} and log["tools/call_rate"] == 0.75
    assert seen == {"right": [1.0, 1.0], "misread": [0.0, 0.0], "failing": [0.0, 0.0], "direct": [0.0, 0.0]}
    assert {name for name, _ in counting.asked} == {cast["right"].example_id, cast["misread"].example_id}
    assert log["verifier/asked"] == 2 and log["verifier/failures"] == 0 and log["verifier/approved"] == 0.5
    assert log["seconds/verifier"] > 0


def test_a_step_without_a_server_has_no_verdict_and_no_silent_zero(
    tmp_path: Path, memorised: tuple[Any, Any], cast: dict[str, Example]
) -> None:
    verifier = server_verifier(refused_url(), tmp_path / "replies", retries=0)
    seen, log, _ = one_step(*memorised, cast, verifier, tmp_path)
    assert all(math.isnan(value) for value in seen["right"] + seen["misread"])
    assert seen["failing"] == seen["direct"] == [0.0, 0.0]
    assert log["verifier/asked"] == 2 and log["verifier/failures"] == 1 and log["verifier/approved"] == 0
