"""Evaluation of an off-the-shelf model behind an OpenAI-compatible API, through lmms-eval's own chat model.

The model receives the question and the original figure, without tools. Unlike lmms-eval, a failed request is an error
here rather than a wrong answer.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from lmms_eval.api.instance import GenerationResult, Instance
from lmms_eval.models.chat.openai import OpenAICompatible

_FAILURES = ("[LMMS_EVAL_REQUEST_FAILED", "[LMMS_EVAL_BUDGET_EXCEEDED]")
"""Prefixes of the text that lmms-eval returns in place of a reply, which would be scored as a wrong answer."""
_MAX_NAMED = 3
"""Most unanswered questions that an error message names."""


class ApiError(RuntimeError):
    """Raised when the API cannot be used or leaves questions unanswered; the message names them and what to do."""


class ApiModel(OpenAICompatible):
    """lmms-eval's model ``openai``, except that a failed request raises instead of counting as a wrong answer."""

    client: Any

    def __init__(self, model: str, *, timeout: float = 120, **arguments: Any) -> None:
        """Create the client.

        Args:
            model: name of the model on the server.
            timeout: time limit of one reply, seconds; lmms-eval accepts this argument but ignores it.
            arguments: lmms-eval's other arguments, e.g. ``base_url``, ``max_retries``, ``num_concurrent``. Key and
                address default to the environment variables ``OPENAI_API_KEY`` and ``OPENAI_API_BASE`` (or
                ``OPENAI_BASE_URL``).

        Raises:
            ApiError: if there is no API key.
        """
        if not (arguments.get("api_key") or os.getenv("OPENAI_API_KEY")):
            raise ApiError(
                f"evaluation.api_model: found {model!r} but no key; set OPENAI_API_KEY (any text for a local server "
                "that wants none, with OPENAI_API_BASE), or set evaluation.api_model to null"
            )
        super().__init__(model=model, **arguments)
        self.client = self.client.with_options(timeout=timeout)

    def generate_until(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        """Return one reply per request.

        Raises:
            ApiError: if any question got no reply, with their number and the last error.
        """
        # The first request goes alone, so that a wrong key or model name fails after one question, not after all.
        return [*self._ask(requests[:1]), *self._ask(requests[1:])]

    def _ask(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        replies = super().generate_until(requests)
        failed = [i for i, reply in enumerate(replies) if _failed(reply.text)]
        if failed:
            names = ", ".join(self._example_id(requests[i]) for i in failed[:_MAX_NAMED])
            more = " …" if len(failed) > _MAX_NAMED else ""
            raise ApiError(
                f"{self.model_version}: found no reply to {len(failed)} of {len(requests)} questions asked "
                f"({names}{more}), the last: {replies[failed[-1]].text or 'an empty one'}; a row with questions left "
                "out is not reported. Check the key, the address and the model's name, then evaluate again"
            )
        return replies

    def _example_id(self, request: Instance) -> str:
        *_, doc_id, task, split = request.args
        return str(self.task_dict[task][split][doc_id]["example_id"])


def _failed(text: str | None) -> bool:
    """Whether a request failed or its reply has no text, e.g. since a filter or the token limit cut it off."""
    return text is None or not text.strip() or text.startswith(_FAILURES)
