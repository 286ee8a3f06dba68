"""A model behind an OpenAI-compatible API, here a server of the test's own: all replies, or an error that counts."""

import base64
import io
import json
import runpy
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from benchmarks.api import ApiError, ApiModel
from benchmarks.evaluate import evaluate
from benchmarks.records import SCHEMA, read_run, write_records
from benchmarks.tasks.scoring import INSTRUCTION
from iapo.artifacts.code_digest import ROOT
from iapo.config.declared import declare
from iapo.config.schema import load_config
from iapo.data.prompts import open_image
from iapo.data.store import read_examples
from iapo.types import TEST_SETS, Example

Question = tuple[str, bytes]
"""Text and pixels."""
Reply = Callable[[Question], tuple[int, str | None]]


@dataclass
class Server:
    """What was asked, and how to answer: a question to a status and the reply."""

    reply: Reply
    payloads: list[dict[str, Any]] = field(default_factory=list)
    keys: set[str | None] = field(default_factory=set)
    hang: threading.Event | None = None
    ending: str = "stop"


def question(payload: dict[str, Any]) -> Question:
    (message,) = payload["messages"]
    (image,) = [part for part in message["content"] if part["type"] == "image_url"]
    header, _, data = image["image_url"]["url"].partition(",")
    assert header == "data:image/png;base64"
    shown = Image.open(io.BytesIO(base64.b64decode(data)))
    return "".join(part["text"] for part in message["content"] if part["type"] == "text"), shown.tobytes()


def question_of(example: Example) -> Question:
    return f"{example.context}\n{example.request}\n{INSTRUCTION}", open_image(example).tobytes()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Listens where the environment says; answers every question with 7 until told otherwise."""
    state = Server(reply=lambda asked: (200, "FINAL ANSWER: 7"))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/chat/completions"
            payload = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            state.payloads.append(payload)
            state.keys.add(self.headers["Authorization"])
            if state.hang is not None:
                state.hang.wait(30)
                return
            status, text = state.reply(question(payload))
            self._send(status, completion(text, state.ending) if status == 200 else {"error": {"message": text}})

        def _send(self, status: int, body: dict[str, Any]) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            """Not into the test's output."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    monkeypatch.setenv("OPENAI_API_BASE", f"http://127.0.0.1:{http.server_port}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "a key")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield state
    if state.hang is not None:
        state.hang.set()
    http.shutdown()
    http.server_close()


def completion(text: str | None, ending: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "some-model",
        "choices": [{"index": 0, "message": message, "finish_reason": ending}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14},
    }


def model(**arguments: Any) -> ApiModel:
    return ApiModel("some-model", **{"max_retries": 2, **arguments})


def spoken(example: Example) -> str:
    answer = {"0": "False", "1": "True"}[example.answer] if example.metric == "fact" else example.answer
    return f"The figure shows it.\n**FINAL ANSWER: {answer}**"


@pytest.fixture(scope="module")
def paths(data_root: Path) -> dict[str, Path]:
    return {name: data_root / "test" / f"{name}.parquet" for name in TEST_SETS}


@pytest.fixture(scope="module")
def bars(paths: dict[str, Path]) -> list[Example]:
    return read_examples(paths["h_bar"])


def test_a_server_that_knows_every_answer_scores_one(tmp_path: Path, server: Server, paths: dict[str, Path]) -> None:
    examples = read_examples(*paths.values())
    answers = {question_of(example): spoken(example) for example in examples}
    assert len(answers) == 240
    server.reply = lambda asked: (200, answers[asked])
    records = evaluate(model(), paths, method="api", seed=0)
    assert len(records) == 240 and all(record["score"] == 1 for record in records)
    assert [record["example_id"] for record in records] == [example.example_id for example in examples]
    write_records(tmp_path / "records.parquet", records)
    found = read_run(tmp_path / "records.parquet")
    assert list(found.columns) == SCHEMA.names and set(found["method"]) == {"api"}
    assert not found[["called", "call_ok", "truncated"]].any(axis=None)
    assert found[["call", "score_original", "score_off"]].isna().all(axis=None)
    assert json.loads(found["turns"][0]) == [spoken(examples[0])]


def test_the_server_sees_the_figure_and_how_to_answer(
    server: Server, paths: dict[str, Path], bars: list[Example]
) -> None:
    records = evaluate(model(num_concurrent=1), {"h_bar": paths["h_bar"]}, method="api", seed=0)
    assert len(records) == len(server.payloads) == 40 and not any(record["score"] for record in records)
    assert server.keys == {"Bearer a key"}
    assert {question(payload) for payload in server.payloads} == {question_of(example) for example in bars}
    for payload in server.payloads:
        assert payload["model"] == "some-model" and payload["temperature"] == 0 and "tools" not in payload


def test_a_reply_that_never_comes_is_an_error_that_names_the_item(
    server: Server, paths: dict[str, Path], bars: list[Example]
) -> None:
    lost = bars[7]
    for status, said, cause in [
        (400, "not this one", "refused_request 1"),
        (200, "", "no_completion 1"),
        (200, None, "no_completion 1"),
        (200, "<think>7?", "thinking 1"),
    ]:
        server.payloads.clear()
        server.reply = lambda asked, status=status, said=said: (  # type: ignore[misc]
            (status, said) if asked == question_of(lost) else (200, "FINAL ANSWER: 7")
        )
        with pytest.raises(ApiError, match=rf"no reply to 1 of 39 questions asked \({lost.example_id}\)") as raised:
            evaluate(model(), {"h_bar": paths["h_bar"]}, method="api", seed=0)
        assert f"by cause: {cause}," in str(raised.value)
        assert {400: "not this one", 200: "all thinking" if said else "an empty reply"}[status] in str(raised.value)
        # What would come out the same is asked once.
        assert len({question(payload) for payload in server.payloads}) == len(server.payloads) == 40


def test_a_failure_that_passes_is_asked_again(
    server: Server, paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[Question] = set()

    def reply(asked: Question) -> tuple[int, str]:
        first = asked not in seen
        seen.add(asked)
        return (503, "not now") if first else (200, "FINAL ANSWER: 7")

    server.reply = reply
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.001)
    records = evaluate(model(), {"h_bar": paths["h_bar"]}, method="api", seed=0)
    assert len(records) == 40 and len(server.payloads) == 80 and all(record["answer"] == "7" for record in records)


def test_a_wrong_key_costs_one_question(
    server: Server, paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-EXAMPLE-1\n")
    server.reply = lambda asked: (401, "no such key: sk-EXAMPLE-1")
    with pytest.raises(
        ApiError, match=r"some-model: found no reply to 1 of 1 .*no such key: \*.*Check the key"
    ) as raised:
        evaluate(model(), {"h_bar": paths["h_bar"]}, method="api", seed=0)
    assert len(server.payloads) == 1 and server.keys == {"Bearer sk-EXAMPLE-1"}
    assert "EXAMPLE" not in str(raised.value) + "".join(capfd.readouterr())


def test_a_refusal_midway_ends_the_questions(server: Server, paths: dict[str, Path]) -> None:
    server.reply = lambda asked: (200, "FINAL ANSWER: 7") if len(server.payloads) < 3 else (403, "revoked")
    with pytest.raises(ApiError, match=r"no reply to 38 of 39 .*by cause: refused 38, .*revoked"):
        evaluate(model(num_concurrent=1), {"h_bar": paths["h_bar"]}, method="api", seed=0)
    assert len(server.payloads) == 3


def test_newer_models_get_what_they_know(server: Server, paths: dict[str, Path]) -> None:
    def reply(asked: Question) -> tuple[int, str]:
        unknown = [name for name in ("max_tokens", "temperature") if name in server.payloads[-1]]
        return (400, f"Unsupported parameter: '{unknown[0]}'") if unknown else (200, "FINAL ANSWER: 7")

    server.reply = reply
    records = evaluate(model(reply_tokens=77, num_concurrent=1), {"h_bar": paths["h_bar"]}, method="api", seed=0)
    assert len(records) == 40 and len(server.payloads) == 42
    assert server.payloads[-1]["max_completion_tokens"] == 77


def test_replies_that_are_cut_off_are_said(
    server: Server, paths: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    server.ending = "length"
    records = evaluate(model(), {"h_bar": paths["h_bar"]}, method="api", seed=0)
    assert len(records) == 40 and "found 40 of 40 replies cut off at 1024 tokens" in caplog.text


def test_a_server_that_hangs_is_not_waited_for(server: Server, paths: dict[str, Path]) -> None:
    server.hang = threading.Event()
    with pytest.raises(ApiError, match=r"by cause: timeout 1, .*no complete reply within 0\.1 s"):
        evaluate(model(timeout=0.1), {"h_bar": paths["h_bar"]}, method="api", seed=0)


def test_without_a_key_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ApiError, match=r"evaluation\.api_model: found 'gpt-4o' but no key; set OPENAI_API_KEY"):
        ApiModel("gpt-4o")


def test_a_key_that_no_header_holds_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-EXAMPLE\n-1")
    with pytest.raises(ApiError, match=r"evaluation\.api_model: OPENAI_API_KEY: found a key with a line end") as raised:
        ApiModel("gpt-4o")
    assert "EXAMPLE" not in str(raised.value)


class Params(dict[str, Any]):
    """Named values by attribute, as Snakemake hands them to a script."""

    __getattr__ = dict.__getitem__


class Files(Params):
    """The files themselves, one after the other, and by name."""

    def __iter__(self) -> Iterator[Any]:
        for paths in self.values():
            yield from paths if isinstance(paths, list) else [paths]


def test_the_script_evaluates_the_configured_model(tmp_path: Path, server: Server, data_root: Path) -> None:
    config = {"profile": "test", "evaluation": {"api_model": "some-model"}, "test_sets": ["h_bar"]}
    snakemake = SimpleNamespace(
        config=config,
        log=[tmp_path / "log"],
        threads=1,
        resources={},
        input=Files({"manifest": data_root / "manifest.json", "models": []}),
        wildcards=SimpleNamespace(method="api"),
        rule="evaluate_policy",
        params=Params({"seeds": [0], "settings": declare(load_config(config), "device", "evaluation", "test_sets")}),
        output=Files({"records": [tmp_path / "records.parquet"], "record": [tmp_path / "records.run.json"]}),
    )
    runpy.run_path(str(ROOT / "workflow/scripts/evaluate_policy.py"), init_globals={"snakemake": snakemake})
    assert len(read_run(tmp_path / "records.parquet")) == len(server.payloads) == 40
    record = json.loads((tmp_path / "records.run.json").read_text())
    assert record["facts"] == {"items": 40, "accuracy": 0, "api_model": "some-model"} and record["seeds"] == {}
    assert "a key" not in (tmp_path / "records.run.json").read_text()
