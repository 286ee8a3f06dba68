"""The trainer mixin that compares the student's attribution with the cached teacher's.

It attributes the batch's distinct calls and hands the students' and teachers' block sums to the reward
functions as two more columns. In front of any ``GRPOTrainer``::

    class MyTrainer(AttributionMixin, GRPOTrainer): ...
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from iapo.alignment import BLOCKS, distribution, divergence
from iapo.attribution import Agree, attribute
from iapo.block_sums import Sums, aggregated, attributed_sums, cached_sums
from iapo.config import AlignmentConfig, AttributionConfig
from iapo.sharding import is_sharded
from iapo.teacher_cache import HIT_KINDS, CacheHit, TeacherCache
from iapo.trainer import FigureTrainer
from iapo.turns import ToolTurn, TurnMixin, calls_batch, distinct_turns
from iapo.types import BlockAttribution

_LOSS_POINTS = 4
"""Of the differentiable loss, whose graph holds every one of them."""


class AttributionMixin(TurnMixin):
    """Adds the columns ``prompt_key``, ``student_block_sums`` and ``teacher_block_sums`` to the rewards.

    Identical calls of a group are attributed once, and a group's images pass the vision tower once. A group
    with a prompt and call over the length limit is left out and counted.
    """

    def __init__(
        self,
        *args: Any,
        cache: TeacherCache,
        attribution: AttributionConfig | None = None,
        alignment: AlignmentConfig | None = None,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            args: the trainer's own.
            cache: the teacher's rows for the training prompts.
            attribution: the student's settings; all but the points must be the teacher's.
            alignment: which rows are compared, and how.
            kwargs: the trainer's own.

        Raises:
            ValueError: where a group would be spread over processes.
        """
        self._cache = cache
        self._attribution = attribution or AttributionConfig()
        self._alignment = alignment or AlignmentConfig()
        self.partition = self._attribution.blocks
        self._key_memo: dict[int, str] = {}
        self.misses: dict[tuple[str, str], int] = defaultdict(int)
        """(prompt key, call text) → how often the cache had another call only, or none."""
        super().__init__(*args, **kwargs)
        arguments: Any = self.args
        held = arguments.per_device_train_batch_size * arguments.steps_per_generation
        if self.accelerator.num_processes > 1 and held % self.group_size:
            raise ValueError(
                f"one process generates {held} rollouts a step, a group has {self.group_size}; whole groups "
                "must fit one process, since a missing call gets its group's mean penalty"
            )

    def _calculate_rewards(self, inputs: list[dict[str, Any]], *args: Any) -> Tensor:
        with self.timed("attribution"):
            self._attribute(inputs)
        return super()._calculate_rewards(inputs, *args)

    def _attribute(self, inputs: list[dict[str, Any]]) -> None:
        turns = self.tool_turns
        called = [i for i in self._attributed_rollouts() if turns[i].calls]
        distinct, places = distinct_turns([turns[i] for i in called])
        result = self._attribute_turns(distinct)
        students = attributed_sums(distinct, result, self._alignment) if result is not None else []
        place = dict(zip(called, places, strict=True))
        hits: dict[str, int] = defaultdict(int)
        for i, (row, turn) in enumerate(zip(inputs, turns, strict=True)):
            row["prompt_key"] = self._prompt_key(turn)
            row["student_block_sums"] = row["teacher_block_sums"] = None
            if i not in place:
                continue
            student = students[place[i]]
            hit = self._teacher_hit(row["prompt_key"], turn)
            hits["missing" if hit is None else hit.kind] += 1
            row["student_block_sums"] = student
            row["teacher_block_sums"] = self._teacher_sums(turn, student, hit)
        for kind in HIT_KINDS:
            self.record(f"cache/{kind}", hits[kind] / max(1, len(called)))

    def _attributed_rollouts(self) -> set[int]:
        """Rollouts of every n-th group whose prompts and calls are not too long."""
        size, every = self.group_size, self._alignment.every_nth_group
        chosen: set[int] = set()
        too_long = 0
        for start in range(0, len(self.tool_turns), size):
            group = range(start, start + size)
            longest = max(self.tool_turns[i].length for i in group)
            if longest > self._attribution.most_tokens:
                too_long += 1
            elif (self.state.global_step + start // size) % every == 0:
                chosen |= set(group)
        self.record("attribution/groups_too_long", float(too_long))
        return chosen

    def _attribute_turns(self, distinct: Sequence[ToolTurn]) -> BlockAttribution | None:
        agree = self._agree()
        if not distinct and agree is None:
            return None
        # Where parameters are sharded, a process without calls still runs the others' forward passes.
        shown = distinct or [min(self.tool_turns, key=lambda turn: turn.length)]
        target = self._attribution.target if distinct else "turn"
        batch = calls_batch(shown, self._tokenizer, self.accelerator.device, target)
        # The model's own forward pass, which accelerate puts under autocast, is not what attribution calls.
        with self.accelerator.autocast():
            result = attribute(self.policy, batch, config=self._attribution, agree=agree)
        if not distinct:
            return None
        self._log_attribution(distinct, result)
        return result

    def _agree(self) -> Agree | None:
        deepspeed = getattr(self.accelerator.state, "deepspeed_plugin", None)
        if not is_sharded(self.model) and (deepspeed is None or deepspeed.zero_stage != 3):
            return None

        def most(count: int) -> int:
            return int(self.accelerator.gather(torch.tensor([count], device=self.accelerator.device)).max())

        return most

    def _teacher_hit(self, key: str, turn: ToolTurn) -> CacheHit | None:
        hit = self._cache.lookup(key, turn.calls[0])
        if hit is None or hit.kind != "exact":
            self.misses[key, turn.text] += 1
        if self._alignment.teacher == "shuffled":
            return self._cache.lookup(self._cache.partner(key), turn.calls[0]) if hit is not None else None
        return hit if self._alignment.reference == "same_call" else self._cache.teacher_call(key)

    def _teacher_sums(self, turn: ToolTurn, student: Sums, hit: CacheHit | None) -> Sums | None:
        if self._alignment.teacher == "self":
            return student
        if self._alignment.teacher == "uniform":
            return [1.0] * turn.prompt.blocks
        if hit is None:
            return None
        return cached_sums(turn, hit, self._alignment)

    def _prompt_key(self, turn: ToolTurn) -> str:
        prompt = turn.prompt
        if id(prompt) not in self._key_memo:
            self._key_memo[id(prompt)] = prompt.key(self._cache.fingerprint)
        return self._key_memo[id(prompt)]

    def _log_attribution(self, turns: Sequence[ToolTurn], result: BlockAttribution) -> None:
        if self.partition == "prit":
            shares = distribution(result.signed, self._alignment.smoothing).mean(0)
            for block, share in zip(BLOCKS, shares.tolist(), strict=True):
                self.record(f"attribution/share_{block}", share)
        self.record("attribution/residual_median", result.residual.median().item())
        self.record("attribution/distinct_calls", float(len(turns)))

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        loss: Tensor = super()._compute_loss(model, inputs)
        if not self._alignment.loss_weight:
            return loss
        with self.timed("alignment_loss"):
            gap = self._alignment_loss()
        self.record("alignment/loss", gap.item())
        return loss + self._alignment.loss_weight * gap.to(loss)

    def _alignment_loss(self) -> Tensor:
        """Mean divergence of one call a group, differentiable in the student's parameters (ours)."""
        chosen: list[tuple[ToolTurn, Tensor]] = []
        for start in range(0, len(self.tool_turns), self.group_size):
            turn = next((t for t in self.tool_turns[start : start + self.group_size] if t.calls), None)
            hit = turn and self._teacher_hit(self._prompt_key(turn), turn)
            if turn and hit and turn.length <= self._attribution.most_tokens:
                chosen.append((turn, aggregated(turn, hit.signed, hit.l1, self._alignment.aggregation)))
        if not chosen:
            return torch.zeros((), device=self.accelerator.device)
        batch = calls_batch([turn for turn, _ in chosen], self._tokenizer, self.accelerator.device)
        settings = replace(self._attribution, points=_LOSS_POINTS, quadrature="gauss_legendre")
        result = attribute(self.policy, batch, config=settings, differentiable=True)
        gaps = []
        for i, (turn, teacher) in enumerate(chosen):
            student = distribution(result.signed[i, : turn.prompt.blocks], self._alignment.smoothing)
            target = distribution(teacher, self._alignment.smoothing).to(student)
            gaps.append(divergence(student, target, self._alignment.divergence))
        return torch.stack(gaps).mean()


class AlignmentTrainer(AttributionMixin, FigureTrainer):
    """The trainer of methods that compare the student's attribution with the teacher's."""
