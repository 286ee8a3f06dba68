"""A verifier that asks a model behind an OpenAI-compatible server.

Requests run in parallel and are cached on disk by their content, so a resumed run does not pay twice. A reply counts
only if it is the JSON object that was asked for or begins with an unambiguous 1 or 0.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from iapo.artifacts.files import atomic_write
from iapo.artifacts.seal import is_broken, seal
from iapo.artifacts.secrets import one_line, read_key, redacted
from iapo.config.schema import VerifierConfig
from iapo.jobs.bounded_http import Deadline
from iapo.rewards.chat_client import ChatClient, ChatReply, ReplyError
from iapo.rewards.verdict import RESPONSE_FORMAT, parse_verdict
from iapo.rewards.verifier import MAX_QUOTED, ToolUse

__all__ = ["ServerVerifier", "parse_verdict"]

_PARALLEL = 8
"""Number of concurrent requests."""


_ASKED_AGAIN = ("no_completion", "no_verdict")
"""Causes after which the question is asked again; OpenAI's client has done so after all others that may pass."""


_QUESTION = """\
Somebody uses an image tool to answer a question about a figure. You see the figure after the tool's edit.

What they were told and asked:
{question}

Their tool call:
{call}

Does the call focus on what the question needs, and can the question be answered from the edited figure?
Reply with {{"verdict": 1}} for yes or {{"verdict": 0}} for no, and nothing else."""


@dataclass(frozen=True)
class _Request:
    """One question to the server."""

    prompt: str
    image: Image.Image
    path: Path
    """File in which the reply is cached."""


class ServerVerifier:
    """Verifier behind an OpenAI-compatible server, asked at temperature 0; replies with a verdict are kept on disk."""

    def __init__(self, config: VerifierConfig, folder: Path) -> None:
        """
        Args:
            config: the server, its model, the limits of time and length, and the number of retries.
            folder: directory of the cached replies, one file each; several jobs may share it.

        Raises:
            ValueError: for a ``base_url`` that is no address, or a key that no header can hold.
        """
        self._config, self._folder = config, folder
        self._key = read_key(config.key_variable)
        self._client = ChatClient(config.base_url, self._key, retries=config.retries)
        self._has_replied = False
        self.last_failure = ""
        """Reason of the latest failure; empty before the first."""
        self.failures: Counter[str] = Counter()
        """Cause → number of requests without a verdict."""
        self.refusal = ""
        """Why the server will give no verdict on anything; empty while it may."""

    def verdicts(self, uses: Sequence[ToolUse]) -> list[float]:
        """Return [B] the server's verdicts, NaN where it gave none; equal requests are sent once."""
        requests = [self._request(use) for use in uses]
        distinct = {request.path: request for request in requests}
        with ThreadPoolExecutor(_PARALLEL) as pool:
            replies = dict(zip(distinct, pool.map(self._ask, distinct.values()), strict=True))
        failures = [reply for reply in replies.values() if isinstance(reply, ReplyError)]
        if failures:
            self.last_failure = f"{self._client.address} gave {failures[-1]}"
            self.failures.update(failure.cause for failure in failures)
            self._note_refusal(failures, len(replies))
        return [math.nan if isinstance(reply := replies[each.path], ReplyError) else reply for each in requests]

    def _note_refusal(self, failures: Sequence[ReplyError], asked: int) -> None:
        """Tell a server that refuses everything, such as a parameter, from one that refuses a single question."""
        refuses_form = not self._has_replied and all(failure.cause == "refused_request" for failure in failures)
        if self._client.refusal is not None or (refuses_form and len(failures) == asked):
            self.refusal = f"{self._client.address} gave {self._client.refusal or failures[-1]}"

    def _request(self, use: ToolUse) -> _Request:
        prompt = _QUESTION.format(question=use.question, call="\n".join(use.key[1]))
        header = json.dumps([self._config.model, prompt, use.image.mode, use.image.size])
        digest = hashlib.sha256(header.encode() + use.image.tobytes()).hexdigest()
        return _Request(prompt, use.image, self._folder / f"{digest}.json")

    def _ask(self, request: _Request) -> float | ReplyError:
        """Return the verdict, or why there is none."""
        cached = _cached_verdict(request.path)
        if cached is not None:
            return cached
        deadline = Deadline(self._config.timeout)
        while True:
            try:
                reply = self._reply(request, deadline)
            except ReplyError as error:
                failure = error
            else:
                self._has_replied = True
                verdict = parse_verdict(reply.answer)
                if verdict is not None:
                    self._write_reply(request, reply)
                    return verdict
                failure = self._unusable(reply)
            is_over = deadline.attempts > self._config.retries or not deadline.left
            if failure.cause not in _ASKED_AGAIN or is_over:
                return failure

    def _reply(self, request: _Request, deadline: Deadline) -> ChatReply:
        content = [
            {"type": "text", "text": request.prompt},
            {"type": "image_url", "image_url": {"url": _data_url(request.image)}},
        ]
        return self._client.ask(
            deadline,
            model=self._config.model,
            messages=[{"role": "user", "content": content}],
            temperature=0,
            max_tokens=self._config.reply_tokens,
            response_format=RESPONSE_FORMAT,
        )

    def _unusable(self, reply: ChatReply) -> ReplyError:
        quoted = repr(one_line(reply.answer, self._key, length=MAX_QUOTED))
        limit = f"{self._config.reply_tokens} tokens; raise verifier.reply_tokens"
        neither = ReplyError("no_verdict", f"a reply that does not begin with 1 or 0: {quoted}")
        return reply.limit_error(limit, f"verdict, {quoted}") or neither

    def _write_reply(self, request: _Request, reply: ChatReply) -> None:
        record = {"model": self._config.model, "prompt": request.prompt, "reply": redacted(reply.answer, self._key)}
        with atomic_write(request.path) as tmp:
            tmp.write_text(json.dumps(seal(record), indent=1) + "\n")


def _cached_verdict(path: Path) -> float | None:
    try:
        record = json.loads(path.read_text())
        return None if is_broken(record) else parse_verdict(record["reply"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # missing or damaged: ask again
        return None


def _data_url(image: Image.Image) -> str:
    png = io.BytesIO()
    image.save(png, "PNG")
    return f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"
