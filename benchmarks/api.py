"""An off-the-shelf model behind an OpenAI-compatible API, asked through lmms-eval's own chat model.

It sees the question and the figure as they are, with no tools of ours. Importing this module needs ``lmms_eval``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from lmms_eval.api.instance import GenerationResult
from lmms_eval.models.chat.openai import OpenAICompatible

_FAILURES = ("[LMMS_EVAL_REQUEST_FAILED", "[LMMS_EVAL_BUDGET_EXCEEDED]")
"""How lmms-eval's text begins where there was no reply; scored, it would be a wrong answer."""
_NAMED = 3
"""How many unanswered questions an error names."""


class ApiError(RuntimeError):
    """The API cannot be asked, or left questions without a reply; the message names them and says what to do."""


class ApiModel(OpenAICompatible):
    """lmms-eval's model ``openai``, which scores a failed request as a wrong answer; here it is an error."""

    client: Any

    def __init__(self, model: str, *, timeout: float = 120, **arguments: Any) -> None:
        """
        Args:
            model: the server's name of it.
            timeout: longest wait for one reply, seconds; lmms-eval takes the argument and does not use it.
            arguments: lmms-eval's other ones, e.g. ``base_url``, ``max_retries``, ``num_concurrent``. Key and address
                come from ``OPENAI_API_KEY`` and ``OPENAI_API_BASE`` (or ``OPENAI_BASE_URL``) where they are not given.

        Raises:
            ApiError: without a key.
        """
        if not (arguments.get("api_key") or os.getenv("OPENAI_API_KEY")):
            raise ApiError(
                f"evaluation.api_model: found {model!r} but no key; set OPENAI_API_KEY (any text for a local server "
                "that wants none, with OPENAI_API_BASE), or set evaluation.api_model to null"
            )
        super().__init__(model=model, **arguments)
        self.client = self.client.with_options(timeout=timeout)

    def generate_until(self, requests: Sequence[Any]) -> list[GenerationResult]:
        """One reply a request.

        Raises:
            ApiError: where any question got none, with how many and the last error.
        """
        # The first alone: a wrong key or name then costs one question, not all of them.
        return [*self._ask(requests[:1]), *self._ask(requests[1:])]

    def _ask(self, requests: Sequence[Any]) -> list[GenerationResult]:
        replies = super().generate_until(requests)
        failed = [i for i, reply in enumerate(replies) if _failed(reply.text)]
        if failed:
            names = ", ".join(self._example_id(requests[i]) for i in failed[:_NAMED])
            more = " …" if len(failed) > _NAMED else ""
            raise ApiError(
                f"{self.model_version}: found no reply to {len(failed)} of {len(requests)} questions asked "
                f"({names}{more}), the last: {replies[failed[-1]].text or 'an empty one'}; a row with questions left "
                "out is not reported. Check the key, the address and the model's name, then evaluate again"
            )
        return replies

    def _example_id(self, request: Any) -> str:
        *_, doc_id, task, split = request.args
        return str(self.task_dict[task][split][doc_id]["example_id"])


def _failed(text: str | None) -> bool:
    """A refused request, or a reply without text, as of a filtered one or one that spent its tokens on thinking."""
    return text is None or not text.strip() or text.startswith(_FAILURES)
