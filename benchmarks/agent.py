"""The policy as an lmms-eval model: batched greedy two-turn rollouts with the training environment's tools.

Once the package is installed, ``lmms-eval eval --model iapo --model_args pretrained=<directory>`` finds it through
the entry point ``lmms_eval.models``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms

from iapo.artifacts.progress import Progress
from iapo.config.sources import EngineName, Precision
from iapo.data.prompts import content_text
from iapo.data.store import example_from_row
from iapo.models.interfaces import PixelBounds
from iapo.rollout.engines import load_writer
from iapo.rollout.two_turn import Rollout, roll_out
from iapo.tools.parsing import canonical
from iapo.types import Example


class FigureAgent(lmms):
    """A policy that answers a question about a figure with at most one tool turn."""

    is_simple = False

    def __init__(
        self,
        pretrained: str,
        batch_size: int | str = 128,
        device: str | None = "cpu",
        precision: Precision = "float32",
        turn_tokens: int = 24,
        image_help: bool = True,
        engine: EngineName = "transformers",
        pixels: PixelBounds | None = None,
        **_: object,
    ) -> None:
        """Load the policy.

        Args:
            pretrained: checkpoint directory with weights and processor.
            batch_size: number of questions decoded together.
            device: device to run the model on.
            precision: dtype of the weights.
            turn_tokens: token limit of a turn.
            image_help: whether to answer each question also with the original image returned by the tool, and
                without tools.
            engine: what runs the policy: transformers, or vLLM, which takes its GPU whole.
            pixels: bounds on an image's area other than the saved processor's.
            _: lmms-eval's other standard arguments, which are ignored.

        Raises:
            SystemExit: for a batch size that is no number, such as lmms-eval's ``auto``; lmms-eval would print any
                other error as a traceback and report success.
        """
        super().__init__()
        self.batch_size_per_gpu = _batch_size(batch_size)
        self.model, self.processor = load_writer(
            Path(pretrained), engine, device=device or "cpu", precision=precision, pixels=pixels
        )
        self.turn_tokens = int(turn_tokens)
        self.image_help = image_help

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        """Return one JSON text per request, by :func:`response_text`."""
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

    def _example(self, request: Instance) -> Example:
        *_, doc_id, task, split = request.args
        return example_from_row(self.task_dict[task][split][doc_id])

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        """Raise ValueError: only tasks outside this benchmark request log-likelihoods."""
        raise ValueError("the iapo model answers generate_until tasks only; choose tasks iapo_*")

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[str]:
        """Raise ValueError: the tool turn is part of ``generate_until``, and only other tasks request this method."""
        raise ValueError("the iapo model answers generate_until tasks only; choose tasks iapo_*")

    def clean(self) -> None:
        """Do nothing: the base class would delete modules and collect garbage, which is slow."""


def _batch_size(given: int | str) -> int:
    text = str(given)
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise SystemExit(
            f"error: found batch_size {text!r}, expected a number of questions; use one that fits the memory, such as "
            "--batch_size 16"
        )
    return int(text)


def response_text(rollout: Rollout) -> str:
    """Serialise a rollout as the JSON text that lmms-eval passes to the scorer, :mod:`benchmarks.tasks.scoring`."""
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
    """Return the assistant's turns and the tools' replies in order; images are written as ``<image>``."""
    texts = iter(rollout.texts)
    return [
        next(texts) if message["role"] == "assistant" else content_text(message["content"])
        for message in rollout.messages
    ]
