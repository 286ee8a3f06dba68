"""Client of OpenAI-compatible chat servers: a reply with text, or an error that says what went wrong by name.

OpenAI's own client does the retries and reads ``Retry-After``. Added here: a bound on a question's whole time and on a
reply's size (:mod:`iapo.jobs.bounded_http`), newer models' names of parameters, replies that are told apart by why they
are unusable, and messages without keys. Used by the verifier and by the rows of models behind an API.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import httpx2

from iapo.artifacts.secrets import one_line, redacted
from iapo.jobs.bounded_http import (
    BoundedClient,
    BoundError,
    Deadline,
    DeadlineError,
    ReplySizeError,
    split_credentials,
)

if TYPE_CHECKING:
    from openai import APIStatusError

Cause = Literal[
    "timeout", "connection", "rate_limited", "server_error", "refused", "refused_request", "too_large",
    "no_completion", "filtered", "cut_off", "thinking", "no_verdict",
]  # fmt: skip
"""Why a question has no usable reply. refused: the server refuses all questions (key, address, model, quota);
refused_request: this one. filtered: by a content filter, or the model declined. thinking: all tokens went into it.
"""


_REPLACEMENTS = {"max_tokens": "max_completion_tokens", "temperature": None, "response_format": None}
"""Parameter → what is sent in its place where a server does not know it; None: nothing."""


_OTHER_NAMES = {"response_format": ("json_schema", "structured output", "guided")}
"""Parameter → other words by which servers refuse it."""


_UNKNOWN = ("support", "unrecognized", "unknown", "unexpected", "permitted", "deprecated")
"""Words by which servers say that they do not know a parameter or its value."""


_FILTERS = ("content_filter", "content_policy_violation")


_FOR_ALL = (401, 402, 403, 404, 405)
"""Statuses that every other question would get too."""


_MAY_PASS = (408, 409)


_THINK_START, _THINK_END = "<think>", "</think>"


class ReplyError(RuntimeError):
    """A question without a usable reply; the message holds no key and takes one line."""

    def __init__(self, cause: Cause, message: str) -> None:
        super().__init__(message)
        self.cause: Cause = cause


@dataclass(frozen=True)
class ChatReply:
    """The text of a completion's first choice, and how it ended."""

    text: str
    """As the server sent it."""
    is_cut_off: bool
    """Whether it reached the limit of tokens."""
    has_reasoning: bool
    """Whether the server sent reasoning beside the text."""
    usage: Mapping[str, Any]
    """Numbers of tokens as the server names them."""

    @property
    def answer(self) -> str:
        """The text after the thinking; empty where the thinking does not end."""
        _, end, after = self.text.rpartition(_THINK_END)
        if end:
            return after
        return "" if after.lstrip().startswith(_THINK_START) else after

    def limit_error(self, limit: str, wanted: str) -> ReplyError | None:
        """Return the error of an answer that the limit of tokens made unusable; None where it did not.

        Args:
            limit: the limit, and the setting that raises it.
            wanted: what a reply that was cut off lacks.
        """
        if not self.answer.strip() and (self.has_reasoning or _THINK_START in self.text):
            return ReplyError("thinking", f"a reply that was all thinking, within {limit}")
        return ReplyError("cut_off", f"a reply cut off before its {wanted}, at {limit}") if self.is_cut_off else None


class ChatClient:
    """Client of one server. What a server turns out not to know is left out of all later requests."""

    def __init__(self, base_url: str, key: str, *, retries: int) -> None:
        """
        Args:
            base_url: up to and including ``/v1``; may hold ``user:token@``.
            key: from :func:`iapo.artifacts.secrets.read_key`; empty sends a placeholder, as local servers want.
            retries: further attempts after a failure that may pass.

        Raises:
            ValueError: for a ``base_url`` that is no address.
        """
        import openai  # slow to import, and not needed where the teacher is the verifier

        try:
            address, auth = split_credentials(base_url)
        except ValueError as error:
            raise ValueError(f"{redacted(base_url)}: {error}") from None
        self.address = address
        """The server, without credentials."""
        self.refusal: ReplyError | None = None
        """Why the server refuses all questions; it is not asked again."""
        self._retries, self._key = retries, key
        self._client = openai.OpenAI(
            base_url=address, api_key=key or "none", max_retries=retries, http_client=BoundedClient(auth)
        )
        self._replaced: dict[str, str | None] = {}

    def ask(self, deadline: Deadline, **parameters: Any) -> ChatReply:
        """Ask for a completion.

        Args:
            deadline: bounds the question's time over all attempts, also those of earlier calls with it.
            parameters: of a chat completion: ``model``, ``messages``, ``max_tokens``, perhaps ``temperature`` and
                ``response_format``, which are replaced or left out where the server does not know them.

        Raises:
            ReplyError: where there is no reply, or none with text by right; all causes but ``no_verdict``.
        """
        import openai

        while True:
            if self.refusal is not None:
                raise self.refusal
            sent = self._adapted(parameters)
            try:
                return _parsed(self._post(deadline, sent))
            except openai.APIStatusError as error:
                unknown = _unknown_parameter(error, sent)
                if unknown is None:
                    raise self._refused(error) from None
                # Several threads may find out at once; each tries again, and once per parameter.
                self._replaced[unknown] = _REPLACEMENTS[unknown]
            except ReplyError as error:
                raise ReplyError(error.cause, one_line(str(error), self._key)) from None

    def _adapted(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        named = {self._replaced.get(name, name): value for name, value in parameters.items()}
        return {name: value for name, value in named.items() if name is not None}

    def _post(self, deadline: Deadline, parameters: dict[str, Any]) -> bytes:
        """Return the body of the server's reply.

        Raises:
            openai.APIStatusError: for a status that is no success, after the retries.
            ReplyError: where there is no whole reply.
        """
        import openai

        retries = max(0, self._retries - deadline.attempts)
        completions = self._client.with_options(max_retries=retries).chat.completions
        try:
            with deadline.applied():
                return completions.with_raw_response.create(**parameters).content
        except openai.APIStatusError:
            raise
        except DeadlineError as error:
            raise ReplyError("timeout", str(error)) from None
        except ReplySizeError as error:
            raise ReplyError("too_large", str(error)) from None
        except openai.APITimeoutError as error:
            raise ReplyError("timeout", f"APITimeoutError: {error.__cause__ or error}") from None
        except (openai.OpenAIError, BoundError, httpx2.HTTPError, ValueError) as error:
            inner = error.__cause__ or error
            raise ReplyError("connection", f"{type(error).__name__}: {inner or type(inner).__name__}") from None

    def _refused(self, error: APIStatusError) -> ReplyError:
        status = error.status_code
        failure = ReplyError(
            _cause(error), f"{type(error).__name__} (status {status}): {one_line(_said(error), self._key)}"
        )
        if failure.cause == "refused":
            if 300 <= status < 400:
                target = one_line(error.response.headers.get("location", "nowhere"), self._key)
                failure = ReplyError("refused", f"a redirect (status {status}) to {target}, which is not followed")
            self.refusal = failure
        return failure


def _cause(error: APIStatusError) -> Cause:
    status = error.status_code
    if status in _FOR_ALL or status < 400 or error.code == "insufficient_quota":
        return "refused"
    if error.code in _FILTERS:
        return "filtered"
    if status == 429:
        return "rate_limited"
    return "server_error" if status >= 500 or status in _MAY_PASS else "refused_request"


def _said(error: APIStatusError) -> str:
    """The server's words: its message where it has the usual form, or else the whole body."""
    usual = isinstance(error.body, dict) and isinstance(error.body.get("message"), str)
    code = f" ({error.code})" if error.code else ""
    return error.message + code if usual else error.response.text


def _unknown_parameter(error: APIStatusError, sent: Mapping[str, Any]) -> str | None:
    """The replaceable parameter that a refusal names as unknown to the server; None for any other refusal."""
    if error.status_code not in (400, 422, 501):
        return None
    said = _said(error).lower()
    if not any(word in said for word in _UNKNOWN):
        return None
    for name in _REPLACEMENTS:
        words = (name, *_OTHER_NAMES.get(name, ()))
        if name in sent and (error.param == name or any(word in said for word in words)):
            return name
    return None


def _parsed(content: bytes) -> ChatReply:
    """Read a chat completion without trusting its form.

    Raises:
        ReplyError: for what is no completion, and for a filtered one.
    """
    try:
        completion = json.loads(content)
        choice = completion["choices"][0]
        message = choice["message"]
        text, refusal, ending = _text(message.get("content")), message.get("refusal"), choice.get("finish_reason")
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, RecursionError) as error:
        found = content.decode("utf-8", "replace")
        raise ReplyError(
            "no_completion", f"{type(error).__name__}: expected a chat completion as JSON, found {found!r}"
        ) from None
    if refusal or ending == "content_filter":
        raise ReplyError("filtered", f"a reply that was declined or filtered: {refusal or text or ending!r}")
    usage = completion.get("usage")
    return ChatReply(
        text=text,
        is_cut_off=ending == "length",
        has_reasoning=bool(message.get("reasoning_content") or message.get("reasoning")),
        usage=usage if isinstance(usage, dict) else {},
    )


def _text(content: Any) -> str:
    """The text of a message's content, which may be null or a list of parts; characters no file can hold are "?"."""
    if isinstance(content, list):
        content = "".join(part["text"] for part in content if part.get("type") == "text")
    if content is None:
        return ""
    if not isinstance(content, str):
        raise TypeError(f"content is {type(content).__name__}")
    return content.encode("utf-8", "replace").decode()
