"""Evaluation of an off-the-shelf model behind an OpenAI-compatible API, through lmms-eval's own chat model.

The model receives the question and the original figure, without tools. Unlike lmms-eval, a failed request is an error
here rather than a wrong answer, and requests go through the same client as the verifier's.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from lmms_eval.api.instance import GenerationResult, Instance
from lmms_eval.models.chat.openai import OpenAICompatible

from iapo.artifacts.secrets import checked_key
from iapo.jobs.bounded_http import Deadline
from iapo.rewards.chat_client import ChatClient, ChatReply, ReplyError

_log = logging.getLogger("iapo.workflow")

_FAILURES = ("[LMMS_EVAL_REQUEST_FAILED", "[LMMS_EVAL_BUDGET_EXCEEDED]")
"""Prefixes of the text that lmms-eval returns in place of a reply, which would be scored as a wrong answer."""
_MAX_NAMED = 3
"""Most unanswered questions that an error message names."""


class ApiError(RuntimeError):
    """Raised when the API cannot be used or leaves questions unanswered; the message names them and what to do."""


class ApiModel(OpenAICompatible):
    """lmms-eval's model ``openai``, except that a failed request raises instead of counting as a wrong answer."""

    client: Any

    def __init__(
        self, model: str, *, timeout: float = 120, reply_tokens: int = 1024, max_retries: int = 5, **arguments: Any
    ) -> None:
        """Create the client.

        Args:
            model: name of the model on the server.
            timeout: longest time for one question, seconds, all attempts together; the pauses between them come on
                top (:class:`iapo.jobs.bounded_http.Deadline`).
            reply_tokens: longest reply, tokens, thinking included.
            max_retries: attempts at a question.
            arguments: lmms-eval's other arguments, e.g. ``base_url``, ``num_concurrent``. Key and address default to
                the environment variables ``OPENAI_API_KEY`` and ``OPENAI_API_BASE`` (or ``OPENAI_BASE_URL``).

        Raises:
            ApiError: if there is no API key, or none that a request can hold.
        """
        try:
            key = checked_key(arguments.pop("api_key", None) or os.getenv("OPENAI_API_KEY", ""), "OPENAI_API_KEY")
        except ValueError as error:
            raise ApiError(f"evaluation.api_model: {error}") from None
        if not key:
            raise ApiError(
                f"evaluation.api_model: found {model!r} but no key; set OPENAI_API_KEY (any text for a local server "
                "that wants none, with OPENAI_API_BASE), or set evaluation.api_model to null"
            )
        # The client retries, and knows when not to.
        super().__init__(model=model, api_key=key, max_retries=1, **arguments)
        self.completions = _Completions(
            ChatClient(str(self.client.base_url), key, retries=max_retries - 1), timeout, reply_tokens
        )
        self.client = SimpleNamespace(chat=SimpleNamespace(completions=self.completions))

    def generate_until(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        """Return one reply per request.

        Raises:
            ApiError: if any question got no reply, with their number, the causes and the last error.
        """
        # The first request goes alone, so that a wrong key or model name fails after one question, not after all.
        replies = [*self._ask(requests[:1]), *self._ask(requests[1:])]
        if self.completions.cut_off:
            _log.warning(
                "%s: found %d of %d replies cut off at %d tokens, scored as they are; expected whole ones: raise "
                "reply_tokens",
                self.model_version,
                self.completions.cut_off,
                len(requests),
                self.completions.reply_tokens,
            )
        return replies

    def _ask(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        replies = super().generate_until(requests)
        failed = [i for i, reply in enumerate(replies) if _failed(reply.text)]
        if failed:
            names = ", ".join(self._example_id(requests[i]) for i in failed[:_MAX_NAMED])
            more = " …" if len(failed) > _MAX_NAMED else ""
            causes = ", ".join(f"{cause} {number}" for cause, number in self.completions.failures.most_common())
            raise ApiError(
                f"{self.model_version}: found no reply to {len(failed)} of {len(requests)} questions asked "
                f"({names}{more}), by cause: {causes or 'budget'}, the last: {replies[failed[-1]].text}; a row with "
                "questions left out is not reported. Check the key, the address and the model's name, then evaluate "
                "again"
            )
        return replies

    def _example_id(self, request: Instance) -> str:
        *_, doc_id, task, split = request.args
        return str(self.task_dict[task][split][doc_id]["example_id"])


class _Completions:
    """What lmms-eval calls in place of OpenAI's ``client.chat.completions``."""

    def __init__(self, client: ChatClient, timeout: float, reply_tokens: int) -> None:
        self.reply_tokens = reply_tokens
        self.failures: Counter[str] = Counter()
        """Cause → number of questions without a reply."""
        self.cut_off = 0
        """Number of replies with text that reached the limit."""
        self._client, self._timeout = client, timeout

    def create(self, *, model: str, messages: list[Any], temperature: float = 0, **others: Any) -> SimpleNamespace:
        """Return a reply in the form that lmms-eval reads.

        Raises:
            ReplyError: if there is no reply with text.
        """
        # lmms-eval guesses from a model's name which parameters it knows; the client asks the server.
        others = {name: value for name, value in others.items() if name not in _GUESSED}
        try:
            reply = self._client.ask(
                Deadline(self._timeout),
                model=model,
                messages=messages,
                temperature=temperature,
                max_tokens=self.reply_tokens,
                **others,
            )
            if not reply.answer.strip():
                raise self._unusable(reply)
        except ReplyError as error:
            self.failures[error.cause] += 1
            raise
        self.cut_off += reply.is_cut_off
        message = SimpleNamespace(content=reply.text)
        return SimpleNamespace(choices=[SimpleNamespace(message=message)], usage=_usage(reply))

    def _unusable(self, reply: ChatReply) -> ReplyError:
        limit = f"{self.reply_tokens} tokens; raise evaluation.api_tokens"
        return reply.limit_error(limit, "first word") or ReplyError("no_completion", "an empty reply")


_GUESSED = ("max_tokens", "max_completion_tokens", "response_format")


def _usage(reply: ChatReply) -> SimpleNamespace:
    def number(holder: Any, name: str) -> int:
        found = holder.get(name) if isinstance(holder, dict) else None
        return found if isinstance(found, int) else 0

    thought = number(reply.usage.get("completion_tokens_details"), "reasoning_tokens")
    return SimpleNamespace(
        prompt_tokens=number(reply.usage, "prompt_tokens"),
        completion_tokens=number(reply.usage, "completion_tokens"),
        completion_tokens_details=SimpleNamespace(reasoning_tokens=thought),
    )


def _failed(text: str | None) -> bool:
    """Whether a request failed, so that lmms-eval would score the text that it returns in place of a reply."""
    return text is None or not text.strip() or text.startswith(_FAILURES)
