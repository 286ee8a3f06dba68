"""Trainers of random weights: turns are generated and timed, and calls and answers put in their place.

Random weights write no call, so nothing would be attributed and no second figure read. Everything behind the sampled
tokens, TRL's tool loop included, is that of every run.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.gpu_check.questions import ANSWER, call_on, question
from benchmarks.gpu_check.scale import REAL, Scale
from benchmarks.perf.steps import EveryOtherStep
from iapo.data.prompts import answer_text
from iapo.rollout.turns import turn_ids
from iapo.tools.parsing import render_call
from iapo.training.trainer import FigureTrainer

if TYPE_CHECKING:
    from PIL.Image import Image
    from trl import GRPOTrainer as _Trainer
else:
    _Trainer = object


class Stopped(Exception):
    """Training was stopped before it would save what nobody reads."""


class ScriptedTurns(_Trainer):
    """Trainer mixin that replaces turns, logs memory, and can end its process the hard way.

    Put it in front of a figure trainer. The attributes of the class are set before the trainer is made.
    """

    scale: Scale = REAL
    """Lengths of the turns."""
    generates: bool = True
    """Whether turns are generated, of ``scale.generated`` tokens, before they are replaced."""
    stopped_after: int | None = None
    """Step behind whose metrics, and before whose checkpoint, training stops by :class:`Stopped`."""
    killed_after: int | None = None
    """Step at which the process is killed in the same place."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.generation_config.max_new_tokens = self.scale.generated

    def _generate_single_turn(
        self, prompt_ids: list[list[int]], images: list[list[Image] | None] | None, *args: Any, **kwargs: Any
    ) -> tuple[Any, ...]:
        if self.generates:
            super()._generate_single_turn(prompt_ids, images, *args, **kwargs)
        figures = [len(row or ()) for row in images or [None] * len(prompt_ids)]
        return [self._turn(i, second=count > 1) for i, count in enumerate(figures)], None

    def _turn(self, row: int, *, second: bool) -> list[int]:
        """Return a turn, each of a group of another length: a call on the figure, or behind it an answer."""
        place = row % int(self.num_generations or 1)
        answer = ANSWER if place % 2 == 0 else "none"
        text = answer_text(answer) if second else render_call(call_on(question(0, self.scale), place))
        tokenizer: Any = self.processing_class.tokenizer  # type: ignore[union-attr]
        spoken = self.scale.turn_tokens - len(turn_ids(tokenizer, text)) - 2
        words = " so" * max(0, spoken * (place + 1) // int(self.num_generations or 1))
        return turn_ids(tokenizer, f"{words.strip()}\n{text}")

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the most memory that any step has taken so far, and end training where that is asked for.

        Raises:
            Stopped: behind the step ``stopped_after``.
        """
        if torch.cuda.is_available():
            logs = {**logs, "memory/peak_gb": torch.cuda.max_memory_allocated() / 1e9}
        super().log(logs, start_time)
        if self.state.global_step == self.killed_after:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.state.global_step == self.stopped_after:
            raise Stopped


class ScriptedGrpo(ScriptedTurns, FigureTrainer):
    """Plain GRPO on scripted turns."""


class ScriptedAlternation(ScriptedTurns, EveryOtherStep):
    """Attribution in every other step, on scripted turns."""
