"""The trainer mixin that has every tool use judged and hands the verdicts to the rewards as one more column.

In front of any ``GRPOTrainer`` over figure environments::

    class MyTrainer(VerifierMixin, GRPOTrainer): ...
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from iapo.trainer import FigureTrainer, call_status
from iapo.turns import TurnMixin
from iapo.verifier import ToolUse, Verifier, VerifierGuard


class VerifierMixin(TurnMixin):
    """Adds the column ``verdict`` to the rewards: 1.0, 0.0, or NaN where the verifier failed.

    A rollout without a tool use, since it made no call or one that failed, is not judged and gets 0.0 (*assumed*).
    """

    def __init__(self, *args: Any, verifier: Verifier, most_failures: float, **kwargs: Any) -> None:
        """
        Args:
            args: the trainer's own.
            verifier: who judges.
            most_failures: share of tool uses without a verdict above which the run stops, once 20 were asked.
            kwargs: the trainer's own.
        """
        self._guard = VerifierGuard(verifier, most_failures)
        super().__init__(*args, **kwargs)

    def _calculate_rewards(self, inputs: list[dict[str, Any]], *args: Any) -> Tensor:
        with self.timed("verifier"):
            self._judge(inputs)
        return super()._calculate_rewards(inputs, *args)

    def _judge(self, inputs: list[dict[str, Any]]) -> None:
        uses = self._tool_uses(inputs)
        asked, failed = self._guard.asked, self._guard.failed
        verdicts = dict(zip(uses, self._guard.verdicts(list(uses.values())), strict=True))
        asked, failed = self._guard.asked - asked, self._guard.failed - failed
        for i, row in enumerate(inputs):
            row["verdict"] = verdicts.get(i, 0.0)
        known = [verdict for verdict in verdicts.values() if not math.isnan(verdict)]
        self.record("verifier/asked", float(asked))
        self.record("verifier/failures", failed / max(1, asked))
        self.record("verifier/approved", sum(known) / max(1, len(known)))

    def _tool_uses(self, inputs: list[dict[str, Any]]) -> dict[int, ToolUse]:
        """Rollout → its tool use, where every call of the turn was carried out."""
        environments: Any = self.environments
        return {
            i: ToolUse(row, tuple(turn.calls), environment._image)
            for i, (row, turn, environment) in enumerate(zip(inputs, self.tool_turns, environments, strict=True))
            if call_status(turn.text, environment.succeeded) == "executed"
        }


class VerifierTrainer(VerifierMixin, FigureTrainer):
    """The trainer of methods whose reward reads a verifier's verdicts."""
