"""Servers that misbehave: each way ends in time, in little memory and with a name, and none in a silent 0."""

import gzip
import io
import itertools
import json
import math
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from iapo.config.schema import VerifierConfig
from iapo.rewards.verifier import ToolUse, VerifierError, VerifierGuard
from iapo.rewards.verifier_server import ServerVerifier
from iapo.types import Example

SHORT, LONG = 1.5, 10.0
"""Seconds for a verdict: where they run out, and where a busy machine should not let them."""
KEY = "sk-EXAMPLE-0123456789"
MAX_MORE_BYTES = 50 * 2**20

Act = Callable[["Handler", int, dict[str, Any]], None]
"""Answers a request, given its number of this kind and its body."""


class Handler(BaseHTTPRequestHandler):
    """``/<kind>/v1/chat/completions`` is answered as ``acts[kind]`` says."""

    server: "Misbehaving"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        kind = self.path.split("/")[1]
        with self.server.lock:
            number = self.server.requests[kind]
            self.server.requests[kind] += 1
        self.close_connection = True
        # The client may hang up at any time, which is what is tested.
        with suppress(OSError):
            self.server.acts[kind](self, number, body)

    def log_message(self, *_: Any) -> None:
        pass

    def send(self, status: int, content: bytes, **headers: str) -> None:
        self.start(status, content_length=str(len(content)), **headers)
        self.wfile.write(content)

    def start(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"content_type": "application/json"} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()


class Misbehaving(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, acts: dict[str, Act]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.acts, self.requests, self.lock = acts, Counter[str](), threading.Lock()
        self.is_closing = threading.Event()

    def url(self, kind: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{kind}/v1"

    def handle_error(self, *_: Any) -> None:
        pass


def completion(content: Any, ending: str = "stop", **message: Any) -> bytes:
    choice = {"index": 0, "finish_reason": ending, "message": {"role": "assistant", "content": content} | message}
    return json.dumps({"id": "1", "object": "chat.completion", "choices": [choice]}).encode()


RIGHT = completion('{"verdict": 1}')


def says(content: bytes, status: int = 200, **headers: str) -> Act:
    return lambda handler, number, body: handler.send(status, content, **headers)


def refuses(status: int, message: str = "no", **detail: str) -> Act:
    return says(json.dumps({"error": {"message": message} | detail}).encode(), status)


def then_right(first: Act) -> Act:
    return lambda handler, number, body: (says(RIGHT) if number else first)(handler, number, body)


def knows_not(**words: str) -> Act:
    """Refuses parameters by these words, until none of them is sent."""

    def act(handler: Handler, number: int, body: dict[str, Any]) -> None:
        unknown = [name for name in words if name in body]
        detail = {"param": unknown[0], "code": "unsupported_parameter"} if unknown else {}
        (refuses(400, words[unknown[0]], **detail) if unknown else says(RIGHT))(handler, number, body)

    return act


def drips(whole: bytes) -> Act:
    def act(handler: Handler, number: int, body: dict[str, Any]) -> None:
        for byte in itertools.cycle(whole):
            handler.wfile.write(bytes([byte]))
            if handler.server.is_closing.wait(0.05):
                return

    return act


def drips_body(handler: Handler, number: int, body: dict[str, Any]) -> None:
    handler.start(200, content_length=str(10**6))
    drips(b" ")(handler, number, body)


def streams(*, chunked: bool) -> Act:
    def act(handler: Handler, number: int, body: dict[str, Any]) -> None:
        handler.start(200, **({"transfer_encoding": "chunked"} if chunked else {"content_length": str(10**12)}))
        piece = b" " * 2**16
        while not handler.server.is_closing.is_set():
            handler.wfile.write(b"10000\r\n" + piece + b"\r\n" if chunked else piece)

    return act


def hangs(*, after: bytes = b"") -> Act:
    def act(handler: Handler, number: int, body: dict[str, Any]) -> None:
        handler.wfile.write(after)
        handler.server.is_closing.wait()

    return act


def closes(after: bytes = b"") -> Act:
    return lambda handler, number, body: handler.wfile.write(after) and None


def redirects(handler: Handler, number: int, body: dict[str, Any]) -> None:
    handler.send(307, b"", location=handler.path)


def echoes_key(handler: Handler, number: int, body: dict[str, Any]) -> None:
    refuses(401, f"found {handler.headers['Authorization']}\nat http://me:{KEY}@host/v1")(handler, number, body)


def bomb(megabytes: int) -> bytes:
    """Spaces, compressed."""
    whole = io.BytesIO()
    with gzip.GzipFile(fileobj=whole, mode="wb", compresslevel=1) as file:
        for _ in range(megabytes):
            file.write(b" " * 2**20)
    return whole.getvalue()


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * 4096


class PeakMemory:
    """``with PeakMemory() as peak: ...``: how much more memory than at the start the process held at most, bytes."""

    def __enter__(self) -> "PeakMemory":
        self._start = self._most = resident_bytes()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._is_over.wait(0.005):
            self._most = max(self._most, resident_bytes())

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    @property
    def more(self) -> int:
        return self._most - self._start


HEADERS = b"HTTP/1.1 200 OK\r\n"
NO_LIMIT = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
NO_TEMPERATURE = "Unsupported value: 'temperature' does not support 0 with this model."
NO_FORMAT = "response_format of type json_schema is not supported"
EXTRA_FIELD = b'{"detail": [{"loc": ["body", "max_tokens"], "msg": "Extra inputs are not permitted"}]}'

CASES: dict[str, tuple[Act, float | str, int | None]] = {
    # What it does; the verdict, or the cause of its lack; how often it is asked, where time does not decide that.
    "429 with Retry-After": (then_right(says(b"{}", 429, retry_after="0.3")), 1.0, 2),
    "429 without": (then_right(refuses(429)), 1.0, 2),
    "429 for an hour": (says(b"{}", 429, retry_after="3600"), "rate_limited", 1),
    "429 until a far date": (says(b"{}", 429, retry_after="Fri, 31 Dec 2100 23:59:59 GMT"), "rate_limited", 1),
    "429 with a wait of nan": (says(b"{}", 429, retry_after="nan"), "rate_limited", None),
    "429 without money": (refuses(429, code="insufficient_quota"), "refused", 1),
    "500, then right": (then_right(refuses(500)), 1.0, 2),
    "503 for ever": (refuses(503), "server_error", None),
    "400 for max_tokens": (knows_not(max_tokens=NO_LIMIT), 1.0, 2),
    "400 for temperature": (knows_not(temperature=NO_TEMPERATURE), 1.0, 2),
    "400 for response_format": (knows_not(response_format=NO_FORMAT), 1.0, 2),
    "400 for all of them": (
        knows_not(max_tokens=NO_LIMIT, temperature=NO_TEMPERATURE, response_format=NO_FORMAT), 1.0, 4
    ),
    "422 for an extra field": (then_right(says(EXTRA_FIELD, 422)), 1.0, 2),
    "400 for too long a prompt": (refuses(400, "max_tokens is too large"), "refused_request", 1),
    "400 for ever": (refuses(400), "refused_request", 1),
    "400 by a filter": (refuses(400, code="content_filter"), "filtered", 1),
    "401": (refuses(401), "refused", 1),
    "401 that repeats the key": (echoes_key, "refused", 1),
    "403": (refuses(403), "refused", 1),
    "404": (says(b"404 page not found", 404, content_type="text/plain"), "refused", 1),
    "redirect to itself": (redirects, "refused", 1),
    "web page with 200": (says(b"<html>1</html>", content_type="text/html"), "no_completion", 3),
    "empty body": (says(b""), "no_completion", 3),
    "204": (says(b"", 204), "no_completion", 3),
    "JSON cut off": (says(RIGHT[:-9]), "no_completion", 3),
    "JSON 100,000 deep": (says(b"[" * 10**5), "no_completion", 3),
    "events": (says(b"data: " + RIGHT + b"\n\n", content_type="text/event-stream"), "no_completion", 3),
    "no choices": (says(b'{"choices": []}'), "no_completion", 3),
    "choices is an object": (says(b'{"choices": {"message": {"content": "1"}}}'), "no_completion", 3),
    "a choice is a text": (says(b'{"choices": ["1"]}'), "no_completion", 3),
    "content is a number": (says(completion(1)), "no_completion", 3),
    "150,000 choices": (says(b'{"choices": [' + b"{}," * 150_000 + b"{}]}"), "no_completion", 3),
    "not UTF-8": (says(RIGHT.replace(b"verdict", b"\xff\xfe")), "no_completion", 3),
    "content null": (says(completion(None)), "no_verdict", 3),
    "verdict in prose": (says(completion("I think that it is 1")), "no_verdict", 3),
    "two verdicts": (says(completion("1\n0")), "no_verdict", 3),
    "two objects": (says(completion('{"verdict": 1} {"verdict": 0}')), "no_verdict", 3),
    "a key twice": (says(completion('{"verdict": 0, "verdict": 1}')), "no_verdict", 3),
    "a verdict of 10": (says(completion('{"verdict": 10}')), "no_verdict", 3),
    "cut off": (says(completion("The figure", "length")), "cut_off", 1),
    "JSON of a verdict cut off": (says(completion('{"verdict"', "length")), "cut_off", 1),
    "reasoning alone": (says(completion(None, "length", reasoning_content="Let me see")), "thinking", 1),
    "reasoning alone, another name": (says(completion("", "length", reasoning="Let me see")), "thinking", 1),
    "thinking without end": (says(completion("<think>1 is", "length")), "thinking", 1),
    "thinking and no more": (says(completion("<think>1</think>\n")), "thinking", 1),
    "thinking, then right": (says(completion("<think>0?</think>\n1")), 1.0, 1),
    "declined": (says(completion(None, refusal="I cannot help")), "filtered", 1),
    "filtered": (says(completion("1", "content_filter")), "filtered", 1),
    "half a surrogate pair": (says(completion("1\n\ud83d")), 1.0, 1),
    "content in parts": (says(completion([{"type": "text", "text": "0"}])), 0.0, 1),
    "the wrong content type": (says(RIGHT, content_type="text/plain; charset=nonsense"), 1.0, 1),
    "body a byte at a time": (drips_body, "timeout", 1),
    "headers a byte at a time": (drips(HEADERS + b"x: " + b"y" * 100), "timeout", 1),
    "headers without end": (drips(HEADERS + b"x: y\r\n" * 100), "timeout", 1),
    "100 Continue for ever": (drips(b"HTTP/1.1 100 Continue\r\n\r\n"), "timeout", 1),
    "hangs before headers": (hangs(), "timeout", 1),
    "hangs in a body of no length": (hangs(after=HEADERS + b"\r\n" + RIGHT), "timeout", 1),
    "hangs after headers": (hangs(after=HEADERS + b"content-length: 9\r\n\r\n"), "timeout", 1),
    "a stream without end": (streams(chunked=True), "too_large", 1),
    "a terabyte": (streams(chunked=False), "too_large", 1),
    "80 MB": (says(b" " * 80_000_000), "too_large", 1),
    "a gzip bomb": (says(bomb(200), content_encoding="gzip"), "too_large", 1),
    "no gzip": (says(RIGHT, content_encoding="gzip"), "connection", None),
    "closes at once": (closes(), "connection", None),
    "closes in the middle": (closes(HEADERS + b"content-length: 900\r\n\r\n{"), "connection", None),
    "no HTTP": (closes(b"SSH-2.0-OpenSSH_9.6\r\n"), "connection", None),
}  # fmt: skip


def kind_of(case: str) -> str:
    return re.sub(r"\W", "-", case)


def time_for(case: str) -> float:
    return SHORT if CASES[case][1] == "timeout" else LONG


@pytest.fixture(scope="module")
def server() -> Iterator[Misbehaving]:
    server = Misbehaving({kind_of(case): act for case, (act, _, _) in CASES.items()})
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.is_closing.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def verifier(monkeypatch: pytest.MonkeyPatch, server: Misbehaving, tmp_path: Path) -> Callable[[str], ServerVerifier]:
    """``verifier(case)``: asks the server that misbehaves in this way."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("A_KEY", f"{KEY}\n")

    def made(case: str) -> ServerVerifier:
        url, timeout = server.url(kind_of(case)), time_for(case)
        config = VerifierConfig(base_url=url, retries=2, timeout=timeout, key_variable="A_KEY", model="judge")
        return ServerVerifier(config, tmp_path / kind_of(case))

    return made


def test_every_misbehaviour_is_bounded_and_named(
    verifier: Callable[[str], ServerVerifier],
    server: Misbehaving,
    test_examples: list[Example],
    tool_use: Callable[..., ToolUse],
) -> None:
    use = tool_use(test_examples[0])
    verifiers = {case: verifier(case) for case in CASES}

    def judged(case: str) -> tuple[float, float]:
        start = time.monotonic()
        (verdict,) = verifiers[case].verdicts([use])
        return verdict, time.monotonic() - start

    # OpenAI's client loads much of itself at its first request.
    judged("verdict in prose")
    server.requests.clear()
    with PeakMemory() as peak, ThreadPoolExecutor(8) as pool:
        found = dict(zip(CASES, pool.map(judged, CASES), strict=True))
    wrong = {}
    for case, (_, expected, asked) in CASES.items():
        verdict, seconds = found[case]
        outcome = next(iter(verifiers[case].failures)) if math.isnan(verdict) else verdict
        number = server.requests[kind_of(case)]
        if outcome != expected or asked not in (None, number) or number > 4 or seconds > 2 * time_for(case):
            wrong[case] = (outcome, number, seconds, verifiers[case].last_failure)
    assert wrong == {}

    assert peak.more < MAX_MORE_BYTES
    said = [each.last_failure for each in verifiers.values() if each.failures]
    assert all(server.url("").removesuffix("/v1") in each and len(each) < 400 and "\n" not in each for each in said)
    assert KEY not in repr([(vars(each)["last_failure"], each.refusal) for each in verifiers.values()])


@pytest.mark.parametrize("case", ["401", "400 for ever", "429 without money", "redirect to itself"])
def test_a_server_that_refuses_everything_stops_the_run_at_once(
    verifier: Callable[[str], ServerVerifier],
    test_examples: list[Example],
    tool_use: Callable[..., ToolUse],
    case: str,
) -> None:
    with pytest.raises(VerifierError, match=r"refuses every question \(http.*key_variable.*last checkpoint") as stopped:
        VerifierGuard(verifier(case), 1.0).verdicts([tool_use(test_examples[0])])
    assert "\n" not in str(stopped.value)


def test_a_refusal_of_the_account_is_asked_once_for_all(
    verifier: Callable[[str], ServerVerifier],
    server: Misbehaving,
    test_examples: list[Example],
    tool_use: Callable[..., ToolUse],
) -> None:
    judge, uses = verifier("403"), [tool_use(each) for each in test_examples[:3]]
    assert all(map(math.isnan, judge.verdicts(uses[:1])))
    before = server.requests["403"]
    assert all(map(math.isnan, judge.verdicts(uses))) and server.requests["403"] == before
