"""A verifier that asks a model behind an OpenAI-compatible server.

Requests run in parallel, are retried, and are cached on disk by their content, so a resumed run does not pay twice. A
reply counts only if it begins with an unambiguous 1 or 0.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import os
import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from iapo.artifacts.files import atomic_write
from iapo.config.schema import VerifierConfig
from iapo.rewards.verifier import MAX_QUOTED, ToolUse

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionMessageParam

_PARALLEL = 8
"""Number of concurrent requests."""


_REPLY_TOKENS = 64
"""Maximum length of a reply. The verdict comes first; the rest is only for people who read the cached replies."""


_QUESTION = """\
Somebody uses an image tool to answer a question about a figure. You see the figure after the tool's edit.

What they were told and asked:
{question}

Their tool call:
{call}

Does the call focus on what the question needs, and can the question be answered from the edited figure?
Begin your reply with 1 for yes or 0 for no."""


@dataclass(frozen=True)
class _Request:
    """One question to the server."""

    prompt: str
    image: Image.Image
    path: Path
    """File in which the reply is cached."""


class ServerVerifier:
    """Verifier behind an OpenAI-compatible server, asked at temperature 0; replies with a verdict are kept on disk."""

    def __init__(self, config: VerifierConfig, folder: Path, *, first_wait: float = 1.0) -> None:
        """
        Args:
            config: the server, its model, the timeout and the number of retries.
            folder: directory of the cached replies, one file each; several jobs may share it.
            first_wait: pause before the second attempt, in seconds; it doubles with each further attempt.
        """
        import openai  # slow to import, and not needed where the teacher is the verifier

        self._config, self._folder, self._first_wait = config, folder, first_wait
        # Retries are done here, because replies without a verdict are retried too and every failure is counted.
        self._client = openai.OpenAI(
            base_url=config.base_url,
            api_key=os.environ.get(config.key_variable) or "none",
            timeout=config.timeout,
            max_retries=0,
        )
        # The client raises a ValueError for a body that claims to be JSON but is not.
        self._errors = (openai.OpenAIError, ValueError)
        self.last_failure = ""
        """Reason of the latest failure; empty before the first."""

    def verdicts(self, uses: Sequence[ToolUse]) -> list[float]:
        """Return [B] the server's verdicts, NaN where it gave none; equal requests are sent once."""
        requests = [self._request(use) for use in uses]
        distinct = {request.path: request for request in requests}
        with ThreadPoolExecutor(_PARALLEL) as pool:
            replies = dict(zip(distinct, pool.map(self._ask, distinct.values()), strict=True))
        failures = [reason for verdict, reason in replies.values() if math.isnan(verdict)]
        if failures:
            self.last_failure = f"{self._config.base_url} gave {failures[-1]}"
        return [replies[request.path][0] for request in requests]

    def _request(self, use: ToolUse) -> _Request:
        prompt = _QUESTION.format(question=use.question, call="\n".join(use.key[1]))
        header = json.dumps([self._config.model, prompt, use.image.mode, use.image.size])
        digest = hashlib.sha256(header.encode() + use.image.tobytes()).hexdigest()
        return _Request(prompt, use.image, self._folder / f"{digest}.json")

    def _ask(self, request: _Request) -> tuple[float, str]:
        """Return the verdict and "", or NaN and what the last attempt got instead."""
        cached = _cached_verdict(request.path)
        if cached is not None:
            return cached, ""
        reason = ""
        for attempt in range(self._config.retries + 1):
            if attempt:
                time.sleep(self._first_wait * 2 ** (attempt - 1))
            try:
                reply = self._reply(request)
            except self._errors as error:
                reason = f"{type(error).__name__}: {error}"
                continue
            verdict = parse_verdict(reply)
            if verdict is not None:
                self._write_reply(request, reply)
                return verdict, ""
            reason = f"a reply that does not begin with 1 or 0: {reply[:MAX_QUOTED]!r}"
        return math.nan, reason

    def _reply(self, request: _Request) -> str:
        message: ChatCompletionMessageParam = {
            "role": "user",
            "content": [
                {"type": "text", "text": request.prompt},
                {"type": "image_url", "image_url": {"url": _data_url(request.image)}},
            ],
        }
        completion = self._client.chat.completions.create(
            model=self._config.model,
            messages=[message],
            temperature=0,
            max_tokens=_REPLY_TOKENS,
        )
        try:
            # The client does not validate what a server sends; it may be a web page.
            return completion.choices[0].message.content or ""
        except (AttributeError, IndexError, TypeError):
            raise ValueError(f"found {str(completion)[:MAX_QUOTED]!r}; expected a chat completion") from None

    def _write_reply(self, request: _Request, reply: str) -> None:
        record = {"model": self._config.model, "prompt": request.prompt, "reply": reply}
        with atomic_write(request.path) as tmp:
            tmp.write_text(json.dumps(record, indent=1) + "\n")


def _cached_verdict(path: Path) -> float | None:
    try:
        return parse_verdict(json.loads(path.read_text())["reply"])
    except (OSError, ValueError):  # missing or damaged: ask again
        return None


def _data_url(image: Image.Image) -> str:
    png = io.BytesIO()
    image.save(png, "PNG")
    return f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"


# A single digit followed by the end, punctuation or an explanation; not 10, 0.5, 1/2, "1 or 0" or "1 label is off".
_VERDICT = re.compile(
    r"""
    [\s*_`"'(\[]*
    (?P<verdict>[01])
    [*_`"')\]]*
    (?:
        \s*\Z
      | [ \t]*\n
      | [.:;,!]+ [*_`"']* (?:\s|\Z)
      | \s+ [–—-] \s
      | \s+ (?:because|since|as)\b
      | \s+ [(]
      | \s+ (?!(?:OR|AND|OF|OUT|TO|Or|And|Of|Out|To)\b) [A-Z]
    )
    (?!\s*[01]\b)
    """,
    re.VERBOSE,
)


_SECOND_POINT = re.compile(r"^\W*2[.:)]", re.MULTILINE)
"""The second item of a numbered list, whose leading 1 is not a verdict."""


def parse_verdict(text: str) -> float | None:
    """Parse the verdict at the beginning of a reply.

    Args:
        text: a model's reply.

    Returns:
        1.0 or 0.0; None for a reply that does not begin with exactly one of them.

    Example:
        >>> parse_verdict("0 because 10 differs"), parse_verdict("10"), parse_verdict("The answer is 1 or 0")
        (0.0, None, None)
    """
    found = _VERDICT.match(text)
    return float(found["verdict"]) if found and not _SECOND_POINT.search(text) else None
