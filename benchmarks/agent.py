"""The policy as an lmms-eval model: two turns with the training environment's tools, greedy, batched.

Installed, it answers to ``lmms-eval eval --model iapo --model_args pretrained=<directory>`` through the
entry point ``lmms_eval.models``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lmms_eval.api.model import lmms

from iapo.data.store import example_from_row
from iapo.models import load_model
from iapo.progress import Progress
from iapo.rollout import Rollout, roll_out
from iapo.tools import canonical
from iapo.types import Example


class FigureAgent(lmms):
    """Answers a question about a figure with at most one tool turn."""

    is_simple = False

    def __init__(
        self,
        pretrained: str,
        batch_size: int | str = 128,
        device: str | None = "cpu",
        turn_tokens: int = 24,
        image_help: bool = True,
        **_: Any,
    ) -> None:
        """
        Args:
            pretrained: directory with weights and processor.
            batch_size: questions decoded together.
            device: where the model runs.
            turn_tokens: longest turn, tokens.
            image_help: whether to answer also with the original image returned, and without tools.
            _: lmms-eval's other standard arguments, which have no meaning here.
        """
        super().__init__()
        self.model, self.processor = load_model(Path(pretrained), device=device or "cpu")
        self.batch_size_per_gpu = int(batch_size)
        self.turn_tokens = int(turn_tokens)
        self.image_help = image_help

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """One JSON text a request: see :func:`response_text`."""
        examples = [self._example(request) for request in requests]
        responses: list[str] = []
        with Progress(len(examples), "evaluate", unit="question") as progress:
            for start in range(0, len(examples), self.batch_size_per_gpu):
                chunk = examples[start : start + self.batch_size_per_gpu]
                responses += [response_text(rollout) for rollout in self._answer(chunk)]
                progress.update(len(chunk))
        return responses

    def _answer(self, examples: Sequence[Example]) -> list[Rollout]:
        return roll_out(self.model, self.processor, examples, turn_tokens=self.turn_tokens, image_help=self.image_help)

    def _example(self, request: Any) -> Example:
        *_, doc_id, task, split = request.args
        return example_from_row(self.task_dict[task][split][doc_id])

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Not a measure of this benchmark; asked for only by tasks that are not ours."""
        raise ValueError("the iapo model answers generate_until tasks only; choose tasks iapo_*")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """The tool turn happens inside ``generate_until``; asked for only by tasks that are not ours."""
        raise ValueError("the iapo model answers generate_until tasks only; choose tasks iapo_*")

    def clean(self) -> None:
        """Nothing to do: the base class deletes modules and collects garbage, which takes seconds."""


def response_text(rollout: Rollout) -> str:
    """A rollout as the text that lmms-eval carries to the scorer (JSON)."""
    return json.dumps(
        {
            "turns": transcript(rollout),
            "answer_turn": rollout.texts[-1],
            "answer_turn_original": rollout.text_original,
            "answer_turn_off": rollout.text_off,
            "call": canonical(rollout.calls[0]) if rollout.calls else None,
            "called": rollout.called,
            "call_ok": rollout.call_ok,
            "truncated": rollout.truncated,
        },
        ensure_ascii=False,
    )


def transcript(rollout: Rollout) -> list[str]:
    """The assistant's turns and the tools' answers in order; an image is written ``<image>``."""
    texts = iter(rollout.texts)
    return [
        next(texts) if message["role"] == "assistant" else _shown(message["content"]) for message in rollout.messages
    ]


def _shown(content: Any) -> str:
    if isinstance(content, str):
        return content
    return " ".join("<image>" if part["type"] == "image" else part["text"] for part in content)
