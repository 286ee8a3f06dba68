"""Trainer mixin that asks a verifier about every tool use and passes its verdicts to the reward functions.

The verdicts become one more column of the batch, ``verdict``. Put the mixin in front of any ``GRPOTrainer`` whose
environments are figure environments::

    class MyTrainer(VerifierMixin, GRPOTrainer): ...
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from iapo.config.schema import Config
from iapo.models.loading import load_model
from iapo.rewards.verifier import ToolUse, Verifier, VerifierGuard
from iapo.rewards.verifier_server import ServerVerifier
from iapo.rewards.verifier_teacher import TeacherVerifier
from iapo.rollout.status import call_status
from iapo.training.rollout_recorder import RolloutRow, TurnMixin
from iapo.training.trainer import FigureTrainer, Sources


class VerifierMixin(TurnMixin):
    """Mixin that adds the column ``verdict``: 1.0, 0.0, or NaN where the verifier failed.

    A rollout that made no call, or whose call failed, is not judged and gets 0.0 (*assumed*).
    """

    def __init__(self, *args: Any, verifier: Verifier, max_failures: float, **kwargs: Any) -> None:
        """
        Args:
            args: arguments of the trainer.
            verifier: the verifier to ask.
            max_failures: share of tool uses without a verdict above which the run stops, after the first 20.
            kwargs: keyword arguments of the trainer.
        """
        self._guard = VerifierGuard(verifier, max_failures)
        super().__init__(*args, **kwargs)

    def _calculate_rewards(self, inputs: list[RolloutRow], *args: Any) -> Tensor:
        with self.timed("verifier"):
            self._judge(inputs)
        return super()._calculate_rewards(inputs, *args)

    def _judge(self, inputs: list[RolloutRow]) -> None:
        uses = self._tool_uses(inputs)
        asked_before, failed_before, causes_before = self._guard.asked, self._guard.failed, self._guard.failures.copy()
        verdicts = dict(zip(uses, self._guard.verdicts(list(uses.values())), strict=True))
        asked, failed = self._guard.asked - asked_before, self._guard.failed - failed_before
        for i, row in enumerate(inputs):
            row["verdict"] = verdicts.get(i, 0.0)
        known = [verdict for verdict in verdicts.values() if not math.isnan(verdict)]
        self.record("verifier/asked", float(asked))
        self.record("verifier/failures", failed / max(1, asked))
        for cause, count in self._guard.failures.items():
            self.record(f"verifier/failures/{cause}", (count - causes_before[cause]) / max(1, asked))
        self.record("verifier/approved", sum(known) / max(1, len(known)))

    def _tool_uses(self, inputs: list[RolloutRow]) -> dict[int, ToolUse]:
        """Return rollout index → tool use, for the rollouts whose calls were all executed."""
        environments: Any = self.environments
        return {
            i: ToolUse(row, tuple(turn.calls), environment._image)
            for i, (row, turn, environment) in enumerate(zip(inputs, self.tool_turns, environments, strict=True))
            if call_status(turn.text, environment.succeeded) == "executed"
        }


class VerifierTrainer(VerifierMixin, FigureTrainer):
    """Trainer of the methods whose reward depends on a verifier's verdicts."""

    def __init__(self, *args: Any, verifier: Verifier, **kwargs: Any) -> None:
        """
        Args:
            args: arguments of the trainer.
            verifier: the verifier to ask; a teacher is moved to the device of this process.
            kwargs: keyword arguments of the trainer.
        """
        super().__init__(*args, verifier=verifier, **kwargs)
        if isinstance(verifier, TeacherVerifier):
            verifier.move_to(self.accelerator.device)

    @classmethod
    def arguments(cls, config: Config, sources: Sources) -> dict[str, Any]:
        """Return the verifier and the share of tool uses on which it may fail.

        Args:
            config: configuration of the run.
            sources: directory of the teacher or of the server's cached replies, as ``config.verifier.kind`` needs.

        Raises:
            ValueError: if that directory is missing.
        """
        return {"verifier": _verifier(config, sources), "max_failures": config.verifier.max_failures}


def _verifier(config: Config, sources: Sources) -> Verifier:
    if config.verifier.kind == "server":
        if sources.replies is None:
            raise ValueError("the verifier is a server: pass a folder for its replies")
        return ServerVerifier(config.verifier, sources.replies)
    if sources.teacher is None:
        raise ValueError("the verifier is the teacher: pass its pretrained directory")
    # On the CPU: which device is this process's own, its trainer says.
    model, processor = load_model(sources.teacher, precision=config.hardware.precision)
    return TeacherVerifier(model, processor, config.evaluation.turn_tokens)
