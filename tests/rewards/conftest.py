"""Tool uses for a verifier, and an unreliable server that judges them."""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from iapo.config.schema import VerifierConfig
from iapo.data.prompts import open_image
from iapo.data.selection import dataset_row
from iapo.rewards.verifier import ToolUse
from iapo.rewards.verifier_server import ServerVerifier
from iapo.tools.drawing import apply
from iapo.types import Example, ToolCall


@pytest.fixture(scope="session")
def focus() -> Callable[[Example], ToolCall]:
    """``focus(example)``: the annotated call."""
    return _focus


def _focus(example: Example) -> ToolCall:
    family = next(f for f, boxes in example.figure.boxes.items() if example.focus_labels[0] in boxes)
    return ToolCall(f"focus_on_{family}_with_mask", example.focus_labels)


@pytest.fixture(scope="session")
def tool_use() -> Callable[..., ToolUse]:
    """``tool_use(example, call=None)``: the edited image of a call, of the annotated one by default."""
    return _tool_use


def _tool_use(example: Example, call: ToolCall | None = None) -> ToolUse:
    calls = (call or _focus(example),)
    edited = apply(open_image(example), example.figure, calls)
    assert edited.error is None
    return ToolUse(dataset_row(example), calls, edited.image)


Reply = str | int | bytes | None
"""What the judge says; an HTTP status; a page that is no completion; silence."""


class Judge:
    """An OpenAI-compatible server on this machine, as unreliable as it is told to be."""

    def __init__(self) -> None:
        self.reply: Callable[[int, dict[str, Any]], Reply] = lambda number, body: "1"
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[Message] = []
        self.together = self.max_together = 0
        self.closing = threading.Event()
        self._lock = threading.Lock()
        judge = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with judge._lock:
                    number = len(judge.bodies)
                    judge.bodies.append(body)
                    judge.headers.append(self.headers)
                    judge.together += 1
                    judge.max_together = max(judge.max_together, judge.together)
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
    """A judge that approves of everything until its ``reply`` is replaced."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    found = Judge()
    thread = threading.Thread(target=found.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield found
    found.closing.set()
    found.server.shutdown()
    found.server.server_close()
    thread.join()


@pytest.fixture(scope="session")
def server_verifier() -> Callable[..., ServerVerifier]:
    """``server_verifier(url, folder, **settings)``: asks the server and keeps its verdicts in the folder."""
    return _server_verifier


def _server_verifier(url: str, folder: Path, **settings: Any) -> ServerVerifier:
    config = VerifierConfig(kind="server", base_url=url, model="judge", retries=2, timeout=5.0)
    return ServerVerifier(replace(config, **settings), folder)


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenAI's client pauses for a millisecond before its first retry."""
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.001)


@pytest.fixture
def refused_url() -> str:
    """An address at which nothing listens."""
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as closed:
        return f"http://127.0.0.1:{closed.server_port}/v1"
