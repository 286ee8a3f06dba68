"""Trainer mixin that attributes the student's tool calls and looks up the teacher's attributions of them.

It attributes the distinct calls of a batch and passes the student's and the teacher's block sums to the reward
functions as two more columns. Put it in front of any ``GRPOTrainer``::

    class MyTrainer(AttributionMixin, GRPOTrainer): ...

B: rollouts of the batch, groups consecutive. K: blocks of a prompt, 4 or more.
"""

from __future__ import annotations

import json
import logging
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn

from iapo.alignment.block_scores import Sums, aggregated, attributed_sums
from iapo.alignment.divergence import distribution, divergence
from iapo.artifacts.files import atomic_write
from iapo.attribution.api import attribute
from iapo.attribution.batch import calls_batch
from iapo.attribution.partition import block_ids
from iapo.attribution.rows import AllReduceMax
from iapo.config.schema import AlignmentConfig, AttributionConfig, Config
from iapo.data.prompts import Message
from iapo.data.store import figure_from_json
from iapo.models.fsdp import keeps_step
from iapo.rewards.alignment import PenaltyError
from iapo.rollout.call_sampling import MISSES
from iapo.rollout.turns import ToolTurn, distinct_turns
from iapo.teacher.cache import HIT_KINDS, CacheHit, TeacherCache, cached_sums
from iapo.training.rollout_recorder import RolloutRow, TurnMixin
from iapo.training.trainer import FigureTrainer, Sources
from iapo.types import BLOCKS, BlockAttribution

_log = logging.getLogger(__name__)

_LOSS_STEPS = 4
"""Path points of the differentiable alignment loss, few because its autograd graph holds all of them."""


class AttributionMixin(TurnMixin):
    """Mixin that adds the columns ``prompt_key``, ``student_block_sums`` and ``teacher_block_sums``.

    Identical calls of a group are attributed once, and a group's images pass through the vision tower once. A group is
    skipped and counted if the prompt and call of one of its rollouts exceed the length limit.
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
            args: arguments of the trainer.
            cache: the teacher's attributions for the training prompts.
            attribution: the student's settings; all but the number of path points must equal the teacher's.
            alignment: which attributions are compared, and how.
            kwargs: keyword arguments of the trainer.

        Raises:
            ValueError: if a group would be split over processes.
        """
        self._cache = cache
        self._attribution = attribution or AttributionConfig()
        self._alignment = alignment or AlignmentConfig()
        self.misses: dict[tuple[str, str], int] = defaultdict(int)
        """(prompt key, turn text) → number of look-ups for which the cache had no exact row."""
        self._told_of_stand_ins = False
        self._chosen: dict[int, tuple[ToolTurn, Tensor]] = {}
        """Rollout → its turn and the teacher's block sums, for the differentiable loss."""
        self._calls = 1.0
        super().__init__(*args, **kwargs)
        arguments: Any = self.args
        if self._alignment.teacher == "shuffled":
            self._cache = cache.shuffled(arguments.seed)
        per_process = arguments.per_device_train_batch_size * arguments.steps_per_generation
        if self.accelerator.num_processes > 1 and per_process % self.group_size:
            raise ValueError(
                f"one process generates {per_process} rollouts a step, a group has {self.group_size}; whole groups "
                "must fit one process, since a missing call gets its group's mean penalty"
            )

    def _block_ids(self, prompt: list[Message], tools: list[Any], ids: list[int], row: Mapping[str, Any]) -> list[int]:
        partition = self._attribution.blocks
        figure = figure_from_json(row["figure"]) if partition == "labels" else None
        processor: Any = self.processing_class
        return block_ids(processor, prompt, tools, ids, partition=partition, figure=figure)

    def _calculate_rewards(self, inputs: list[RolloutRow], *args: Any) -> Tensor:
        with self.timed("attribution"):
            self._attribute(inputs)
        if self._alignment.loss_weight:
            self._choose_calls()
        return super()._calculate_rewards(inputs, *args)

    def _attribute(self, inputs: list[Any]) -> None:
        """Fill the three columns of the batch's rows and log how often the cache had the student's call."""
        turns = self.tool_turns
        called = [i for i in self._attributed_rollouts() if turns[i].calls]
        distinct, places = distinct_turns([turns[i] for i in called])
        result = self._attribute_turns(distinct)
        distinct_sums = attributed_sums(distinct, result, self._alignment) if result is not None else []
        place = dict(zip(called, places, strict=True))
        hits: dict[str, int] = defaultdict(int)
        for i, (row, turn) in enumerate(zip(inputs, turns, strict=True)):
            row["prompt_key"] = turn.prompt.key
            row["student_block_sums"] = row["teacher_block_sums"] = row["cache_hit"] = None
            if i not in place:
                continue
            student = distinct_sums[place[i]]
            own = self._cache.lookup(row["prompt_key"], turn.calls[0])
            if own is None or own.kind != "exact":
                self.misses[row["prompt_key"], turn.text] += 1
            hit = self._compared_with(row["prompt_key"], own)
            row["cache_hit"] = self._cache.kind(row["prompt_key"], hit)
            hits[row["cache_hit"]] += 1
            row["student_block_sums"] = student
            row["teacher_block_sums"] = self._teacher_sums(turn, student, hit)
        for kind in HIT_KINDS:
            self.record(f"cache/{kind}", hits[kind] / max(1, len(called)))
        self._warn_of_stand_ins(hits)

    def _warn_of_stand_ins(self, hits: Mapping[str, int]) -> None:
        """Say once that calls are compared with a row of another tool, since the cache has none nearer."""
        compared = self._alignment.teacher == "cache" and self._alignment.reference == "same_call"
        if self._told_of_stand_ins or not compared or not hits.get("nearest"):
            return
        self._told_of_stand_ins = True
        calls = sum(hits.values())
        _log.warning(
            "step %d: the teacher's cache has no row of the same tool for %d of %d calls (%.0f %%): they are compared "
            "with the teacher's attribution of another call. Cache more calls a prompt (`teacher.sampled_calls`, "
            "`teacher.enumerated`), or fill the cache with those that were missed (rule `fill_cache`; `misses` of the "
            "trainer). This is said once; the metrics cache/* go on",
            self.state.global_step,
            hits["nearest"],
            calls,
            100 * hits["nearest"] / calls,
        )

    def _attributed_rollouts(self) -> set[int]:
        """Return the rollouts of all groups that keep to the length limit."""
        size = self.group_size
        chosen: set[int] = set()
        too_long = 0
        for start in range(0, len(self.tool_turns), size):
            group = range(start, start + size)
            longest = max(self.tool_turns[i].length for i in group)
            if longest > self._attribution.max_tokens:
                too_long += 1
            else:
                chosen |= set(group)
        self.record("attribution/groups_too_long", float(too_long))
        return chosen

    def _attribute_turns(self, distinct: Sequence[ToolTurn]) -> BlockAttribution | None:
        """Attribute distinct turns with the current policy; None if there are none."""
        all_reduce_max = self._all_reduce_max()
        if not distinct and all_reduce_max is None:
            return None
        # With sharded parameters a process without calls must still take part in the others' forward passes.
        attributed = distinct or [min(self.tool_turns, key=lambda turn: turn.length)]
        target = self._attribution.target if distinct else "turn"
        batch = calls_batch(attributed, self._tokenizer, self.accelerator.device, target)
        # Attribution does not call the model's own forward, which accelerate has wrapped in autocast.
        with self.accelerator.autocast():
            result = attribute(self.policy, batch, config=self._attribution, all_reduce_max=all_reduce_max)
        if not distinct:
            return None
        self._log_attribution(distinct, result)
        return result

    def _all_reduce_max(self) -> AllReduceMax | None:
        """Return the maximum over processes, by which sharded models keep in step; None without sharding."""
        if not keeps_step(self.model, self.accelerator.state):
            return None

        def all_reduce_max(count: int) -> int:
            return int(self.accelerator.gather(torch.tensor([count], device=self.accelerator.device)).max())

        return all_reduce_max

    def _compared_with(self, key: str, own: CacheHit | None) -> CacheHit | None:
        """Return what a call is compared with: the row that was found for it, or that of the teacher's own call."""
        return own if self._alignment.reference == "same_call" else self._cache.teacher_call(key)

    def _teacher_sums(self, turn: ToolTurn, student: Sums, hit: CacheHit | None) -> Sums | None:
        if self._alignment.teacher == "self":
            return student
        if self._alignment.teacher == "uniform":
            return [1.0] * turn.prompt.blocks
        if hit is None:
            return None
        return cached_sums(turn, hit, self._alignment)

    def _log_attribution(self, turns: Sequence[ToolTurn], result: BlockAttribution) -> None:
        if self._attribution.blocks == "four_block":
            shares = distribution(result.signed, self._alignment.smoothing).mean(0)
            for block, share in zip(BLOCKS, shares.tolist(), strict=True):
                self.record(f"attribution/share_{block}", share)
        self.record("attribution/convergence_delta_median", result.convergence_delta.median().item())
        self.record("attribution/distinct_calls", float(len(turns)))

    def _compute_loss(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        loss: Tensor = super()._compute_loss(model, inputs)
        if not self._alignment.loss_weight:
            return loss
        with self.timed("alignment_loss"):
            gap = self._alignment_loss(inputs["rollout_index"].tolist())
        # A step's passes add up to its mean, while what they record is averaged.
        passes: int = self.args.gradient_accumulation_steps
        self.record("alignment/loss", passes * gap.item())
        return loss + self._alignment.loss_weight * gap.to(loss)

    def _choose_calls(self) -> None:
        """Choose one call of each group for the differentiable loss, once for all passes of the step."""
        self._chosen = {}
        for start in range(0, len(self.tool_turns), self.group_size):
            group = range(start, start + self.group_size)
            i = next((i for i in group if self.tool_turns[i].calls), None)
            if i is None or self.tool_turns[i].length > self._attribution.max_tokens:
                continue
            turn = self.tool_turns[i]
            if hit := self._compared_with(turn.prompt.key, self._cache.lookup(turn.prompt.key, turn.calls[0])):
                self._chosen[i] = turn, aggregated(turn, hit.signed, hit.l1, self._alignment.aggregation)
        counts = self.accelerator.gather(torch.tensor([len(self._chosen)], device=self.accelerator.device))
        # Gradients are averaged over the processes, so each divides by its share of all calls, as TRL's loss does.
        self._calls = max(1, int(counts.sum())) / self.accelerator.num_processes

    def _alignment_loss(self, rollouts: Sequence[int]) -> Tensor:
        """Return this pass's part of the mean divergence of the chosen calls, differentiable in the student's weights.

        This loss is not in the paper.

        Args:
            rollouts: the batch's rollouts that are in this pass.
        """
        chosen = [self._chosen[i] for i in rollouts if i in self._chosen]
        if not chosen:
            return torch.zeros((), device=self.accelerator.device)
        batch = calls_batch([turn for turn, _ in chosen], self._tokenizer, self.accelerator.device)
        settings = replace(self._attribution, n_steps=_LOSS_STEPS, quadrature="gauss_legendre")
        result = attribute(self.policy, batch, config=settings, differentiable=True)
        gaps = []
        for i, (turn, teacher) in enumerate(chosen):
            student = distribution(result.signed[i, : turn.prompt.blocks], self._alignment.smoothing)
            target = distribution(teacher, self._alignment.smoothing).to(student)
            gaps.append(divergence(student, target, self._alignment.divergence))
        return torch.stack(gaps).sum() / self._calls


class AlignmentTrainer(AttributionMixin, FigureTrainer):
    """Trainer of the methods that compare the student's attribution with the teacher's."""

    @classmethod
    def arguments(cls, config: Config, sources: Sources) -> dict[str, Any]:
        """Return the teacher's cache and the settings of the comparison.

        Args:
            config: configuration of the run.
            sources: directories that the method reads from; ``cache`` is required.

        Raises:
            ValueError: if the cache directory is missing.
        """
        if sources.cache is None:
            raise ValueError("this method compares with a teacher: pass its cache directory")
        return {
            "cache": TeacherCache(sources.cache),
            "attribution": config.attribution,
            "alignment": config.alignment,
        }

    def _calculate_rewards(self, inputs: list[RolloutRow], *args: Any) -> Tensor:
        try:
            return super()._calculate_rewards(inputs, *args)
        except PenaltyError as found:
            unchanged = "No weight was changed by it, and the same command goes on from the last checkpoint."
            self.stop_run(found.problem, f"{found.advice} {unchanged}", found.rows)

    def write_extras(self, folder: Path) -> None:
        """Write the calls that had no exact row in the cache, most frequent first, for the rule ``fill_cache``.

        Args:
            folder: the run directory at the end, a checkpoint's before.
        """
        misses: Counter[tuple[str, str]] = Counter()
        for process_misses in gather_object([dict(self.misses)]):
            misses.update(process_misses)
        if not self.accelerator.is_main_process:
            return
        ordered = sorted(misses.items(), key=lambda item: (-item[1], item[0]))
        with atomic_write(folder / MISSES) as tmp:
            lines = [json.dumps({"prompt_key": key, "turn": text, "count": count}) for (key, text), count in ordered]
            tmp.write_text("".join(f"{line}\n" for line in lines))

    def read_extras(self, checkpoint: Path) -> None:
        """Go on counting from the misses of a checkpoint.

        Args:
            checkpoint: its folder.
        """
        # Those of all processes are in one file, and are summed again.
        if not self.accelerator.is_main_process:
            return
        for miss in map(json.loads, (checkpoint / MISSES).read_text().splitlines()):
            self.misses[miss["prompt_key"], miss["turn"]] = miss["count"]


class TwoStageTrainer(AlignmentTrainer):
    """Trainer of the methods whose penalty counts from a later step on: before it no call is attributed."""

    def _attribute(self, inputs: list[Any]) -> None:
        # Before that step the reward, :func:`iapo.rewards.stages.counted_from`, reads none of the columns.
        if self.state.global_step >= self._alignment.from_step:
            super()._attribute(inputs)

    def _choose_calls(self) -> None:
        if self.state.global_step >= self._alignment.from_step:
            super()._choose_calls()
        else:
            self._chosen, self._calls = {}, 1.0
