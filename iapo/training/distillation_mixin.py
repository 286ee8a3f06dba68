"""Trainer mixins that add a loss from the teacher to the policy's: its right calls, or its next-token probabilities.

Both work on first turns, the ones that call a tool, and on all tokens of such a turn: thoughts, call and end token.
TRL's own distillation trainers run no tools, so the loss stands beside GRPO's here. Put a mixin in front of a trainer
that records rollouts and numbers them, as :class:`iapo.training.trainer.FigureTrainer` does::

    class MyTrainer(TeacherCallsMixin, FigureTrainer): ...

N: turns of a batch. T: tokens of a turn. V: tokens of the vocabulary.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from iapo.config.schema import Config
from iapo.data.selection import DatasetRow
from iapo.models.fsdp import keeps_step
from iapo.models.interfaces import Policy, QwenVL
from iapo.models.loading import load_model
from iapo.rewards.answers.extraction import extract
from iapo.rewards.answers.matching import score
from iapo.rollout.turns import ToolTurn, distinct_turns, turn_ids
from iapo.teacher.cache import TeacherCache
from iapo.teacher.rows import CacheRow
from iapo.training.rollout_recorder import RolloutRow, TurnMixin
from iapo.training.trainer import FigureTrainer, Sources


class DistillationMixin(TurnMixin):
    """Mixin that adds the weighted mean of a loss over the tokens of some first turns, whatever the size of a pass.

    Subclasses say which turns (:meth:`distilled_turns`) and which loss (:meth:`token_losses`).
    """

    def __init__(self, *args: Any, loss_weight: float, **kwargs: Any) -> None:
        """
        Args:
            args: arguments of the trainer.
            loss_weight: what the mean loss of a token is multiplied by.
            kwargs: keyword arguments of the trainer.
        """
        self._loss_weight = loss_weight
        self._distilled: Mapping[int, Sequence[ToolTurn]] = {}
        self._tokens = 1.0
        super().__init__(*args, **kwargs)

    def distilled_turns(self, inputs: Sequence[RolloutRow]) -> Mapping[int, Sequence[ToolTurn]]:
        """Return index of a rollout → the turns whose loss is taken in the forward pass that this rollout is in.

        Args:
            inputs: [B] rows of the batch's rollouts, in the order of ``tool_turns``.
        """
        raise NotImplementedError

    def token_losses(self, turns: Sequence[ToolTurn]) -> list[Tensor]:
        """Return [N] losses [T] of the tokens of distinct turns, differentiable in the policy's parameters.

        Args:
            turns: [N] the turns, at least one.
        """
        raise NotImplementedError

    def _calculate_rewards(self, inputs: list[RolloutRow], *args: Any) -> Tensor:
        self._distilled = self.distilled_turns(inputs)
        tokens = sum(len(turn.ids) for turns in self._distilled.values() for turn in turns)
        counts = self.accelerator.gather(torch.tensor([tokens], device=self.accelerator.device))
        # Gradients are averaged over the processes, so each divides by its share of all tokens, as TRL's loss does.
        self._tokens = max(1, int(counts.sum())) / self.accelerator.num_processes
        self.record("distillation/tokens", float(tokens))
        return super()._calculate_rewards(inputs, *args)

    def _compute_loss(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        loss: Tensor = super()._compute_loss(model, inputs)
        with self.timed("distillation"):
            found = self._distillation_loss(inputs["rollout_index"].tolist())
        # A step's passes add up to its mean, while what they record is averaged.
        passes: int = self.args.gradient_accumulation_steps
        self.record("distillation/loss", passes * found.item())
        return loss + self._loss_weight * found.to(loss)

    def _distillation_loss(self, rollouts: Sequence[int]) -> Tensor:
        """Return this pass's part of the mean loss a token."""
        turns = [turn for i in rollouts for turn in self._distilled.get(i, ())]
        distinct, places = distinct_turns(turns)
        times = Counter(places)
        if not distinct:
            if not keeps_step(self.model, self.accelerator.state):
                return torch.zeros((), device=self.accelerator.device)
            # With sharded parameters a process without turns must still take part in the others' forward passes.
            distinct, times = [min(self.tool_turns, key=lambda turn: turn.length)], Counter()
        with self.accelerator.autocast():
            losses = self.token_losses(distinct)
        weighted = [times[i] * loss.sum() for i, loss in enumerate(losses)]
        return torch.stack(weighted).sum() / self._tokens


class TeacherCallsMixin(DistillationMixin):
    """Mixin with the loss of the teacher's own right calls on the step's prompts: supervised fine-tuning beside GRPO.

    A call is the teacher's own if it sampled it when the cache was made, and right if the answer that it gave from the
    edited image was. The annotated call is not used.
    """

    def __init__(self, *args: Any, cache: TeacherCache, **kwargs: Any) -> None:
        """
        Args:
            args: arguments of the trainer.
            cache: the teacher's cache of the training prompts.
            kwargs: keyword arguments of :class:`DistillationMixin` and the trainer.

        Raises:
            ValueError: if no call in the cache is the teacher's own and answered.
        """
        self._own_calls: dict[str, list[CacheRow]] = defaultdict(list)
        for row in cache.rows:
            if row.answer_text is not None:
                self._own_calls[row.prompt_key].append(row)
        if not self._own_calls:
            raise ValueError(
                f"the teacher's cache: found no call of its own among {len(cache)} rows; expected some to learn from. "
                "Raise teacher.sampled_calls, or train the teacher until it calls its tools"
            )
        super().__init__(*args, **kwargs)

    def distilled_turns(self, inputs: Sequence[RolloutRow]) -> Mapping[int, Sequence[ToolTurn]]:
        """Return the teacher's right calls on each group's prompt, under the index of the group's first rollout."""
        firsts = range(0, len(inputs), self.group_size)
        found = {i: self._right_calls(i, inputs[i]) for i in firsts}
        self.record("distillation/prompts_with_calls", sum(map(bool, found.values())) / max(1, len(firsts)))
        return found

    def _right_calls(self, i: int, row: RolloutRow) -> list[ToolTurn]:
        prompt = self.tool_turns[i].prompt
        return [
            ToolTurn(prompt, turn_ids(self._tokenizer, each.call_text), each.call_text, [each.call])
            for each in self._own_calls.get(prompt.key, [])
            if is_right(each, row)
        ]

    def token_losses(self, turns: Sequence[ToolTurn]) -> list[Tensor]:
        """Return [N] the negative log-probabilities [T] of the turns' tokens, nats."""
        logits = turn_logits(self.policy, self._tokenizer, turns)
        return [
            nn.functional.cross_entropy(found, torch.tensor(turn.ids, device=found.device), reduction="none")
            for found, turn in zip(logits, turns, strict=True)
        ]


class TeacherKLMixin(DistillationMixin):
    """Mixin with the KL divergence from the student's next-token distribution to the teacher's, on the student's turns.

    On-policy distillation (generalised knowledge distillation, arXiv 2306.13649, its reverse KL without a gradient
    through the sampling). The turns are the rollouts' first ones, with or without a call.
    """

    def __init__(self, *args: Any, teacher: Policy, **kwargs: Any) -> None:
        """
        Args:
            args: arguments of the trainer.
            teacher: the frozen teacher and its processor.
            kwargs: keyword arguments of :class:`DistillationMixin` and the trainer.

        Raises:
            ValueError: if the teacher's tokenizer is not the student's.
        """
        super().__init__(*args, **kwargs)
        model, processor = teacher
        self._vocabulary = shared_vocabulary(self._tokenizer, processor.tokenizer)
        self._teacher: QwenVL = model.requires_grad_(False).to(self.accelerator.device)

    def distilled_turns(self, inputs: Sequence[RolloutRow]) -> Mapping[int, Sequence[ToolTurn]]:
        """Return each rollout's own first turn."""
        return {i: [turn] for i, turn in enumerate(self.tool_turns) if turn.ids}

    def token_losses(self, turns: Sequence[ToolTurn]) -> list[Tensor]:
        """Return [N] the divergences [T] at the turns' tokens, nats."""
        with torch.no_grad():
            teacher = turn_logits(self._teacher, self._tokenizer, turns)
        student = turn_logits(self.policy, self._tokenizer, turns)
        size = self._vocabulary
        return [reverse_kl(s[:, :size], t[:, :size]) for s, t in zip(student, teacher, strict=True)]


class TeacherCallsTrainer(TeacherCallsMixin, FigureTrainer):
    """Trainer of the methods that learn from the teacher's cached calls."""

    @classmethod
    def arguments(cls, config: Config, sources: Sources) -> dict[str, Any]:
        """Return the teacher's cache and the weight of the loss.

        Args:
            config: configuration of the run.
            sources: directories that the method reads from; ``cache`` is required.

        Raises:
            ValueError: if the cache directory is missing.
        """
        if sources.cache is None:
            raise ValueError("this method learns from the teacher's calls: pass its cache directory")
        return {"cache": TeacherCache(sources.cache), "loss_weight": config.rewards.teacher_calls}


class TeacherKLTrainer(TeacherKLMixin, FigureTrainer):
    """Trainer of the methods that learn from the teacher's probabilities."""

    @classmethod
    def arguments(cls, config: Config, sources: Sources) -> dict[str, Any]:
        """Return the teacher and the weight of the loss.

        Args:
            config: configuration of the run.
            sources: directories that the method reads from; ``teacher`` is required.

        Raises:
            ValueError: if the teacher's directory is missing.
        """
        if sources.teacher is None:
            raise ValueError("this method learns from the teacher's probabilities: pass its pretrained directory")
        return {
            "teacher": load_model(sources.teacher, precision=config.hardware.precision),
            "loss_weight": config.rewards.teacher_kl,
        }


def is_right(row: CacheRow, question: DatasetRow) -> bool:
    """Return whether the teacher answered the question rightly after its call.

    Args:
        row: cached call, perhaps without an answer.
        question: dataset row with the gold answer and its metric.
    """
    return score(extract(row.answer_text or ""), question["answer"], question["metric"]) == 1


def reverse_kl(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Return KL(student ‖ teacher) of next-token distributions, nats.

    Args:
        student_logits: [..., V].
        teacher_logits: [..., V].

    Returns:
        [...] divergences, 0 or more.
    """
    student, teacher = student_logits.float().log_softmax(-1), teacher_logits.float().log_softmax(-1)
    return nn.functional.kl_div(teacher, student, reduction="none", log_target=True).sum(-1)


def shared_vocabulary(student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase) -> int:
    """Return the size of the vocabulary that two models share; their logits may be padded to different widths.

    Args:
        student: the student's tokenizer.
        teacher: the teacher's.

    Raises:
        ValueError: if a token has different ids, or only one of them has it.
    """
    own, other = student.get_vocab(), teacher.get_vocab()
    differing = len(dict(own.items() ^ other.items()))
    if differing:
        raise ValueError(
            f"teacher: found a tokenizer of {len(other)} tokens, {differing} of which are not the student's; expected "
            "the same, since probabilities are compared token by token: use a teacher of the student's family, or "
            "the method teacher_calls, which needs its text alone"
        )
    return len(own)


def turn_logits(model: QwenVL, tokenizer: PreTrainedTokenizerBase, turns: Sequence[ToolTurn]) -> list[Tensor]:
    """Return the logits that predict each token of some turns after their prompts, by one forward pass.

    Args:
        model: student or teacher; the caller decides about gradients.
        tokenizer: for the pad token.
        turns: [N] turns of at least one token.

    Returns:
        [N] logits [T, V].
    """
    batch = {name: tensor.to(model.device) for name, tensor in _left_padded(tokenizer, turns).items()}
    longest = max(len(turn.ids) for turn in turns)
    logits = model(**batch, logits_to_keep=longest + 1, use_cache=False).logits[:, :-1]
    return [row[longest - len(turn.ids) :] for row, turn in zip(logits, turns, strict=True)]


def _left_padded(tokenizer: PreTrainedTokenizerBase, turns: Sequence[ToolTurn]) -> dict[str, Tensor]:
    """Collate prompts and turns into a model's inputs, with the images of each row."""
    width = max(turn.length for turn in turns)

    def padded(rows: Sequence[Sequence[int]], filler: int) -> Tensor:
        return torch.tensor([[*[filler] * (width - len(row)), *row] for row in rows])

    batch = {
        "input_ids": padded([turn.prompt.input_ids + turn.ids for turn in turns], tokenizer.pad_token_id),
        "attention_mask": padded([[1] * turn.length for turn in turns], 0),
        "mm_token_type_ids": padded(
            [[*turn.prompt.fields["mm_token_type_ids"][0], *[0] * len(turn.ids)] for turn in turns], 0
        ),
    }
    shown = [turn.prompt.fields for turn in turns if "pixel_values" in turn.prompt.fields]
    images = ("pixel_values", "image_grid_thw") if shown else ()
    return batch | {name: torch.cat([fields[name] for fields in shown]) for name in images}
