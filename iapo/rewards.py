"""The outcome and the alignment reward, pure functions in TRL's signature: lists in, one float a rollout out.

Use :func:`alignment_reward` with anyone's ``GRPOTrainer`` whose rows carry the two block sums; the trainer
of this package adds them. TRL multiplies it by lambda through ``reward_weights``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch

from iapo.alignment import distribution, divergence
from iapo.answers import extract, score
from iapo.config import AlignmentConfig
from iapo.types import Metric

BlockSums = Sequence[float]
"""Signed attribution of a call per block, nats: P, R, I, T."""


def outcome_reward(
    completions: Sequence[Sequence[dict[str, Any]]],
    answer: Sequence[str],
    metric: Sequence[Metric],
    **_: Any,
) -> list[float]:
    """1.0 for a right final answer, 0.0 for any other.

    Args:
        completions: each rollout's messages; the last one answers, unless it still calls a tool.
        answer: gold answers.
        metric: how to match each one.

    Returns:
        One score a rollout; 0.0 for one that ended in a tool call or the tool's answer.

    Example:
        >>> done = [[{"role": "assistant", "content": "FINAL ANSWER: 67"}]]
        >>> outcome_reward(done, ["67"], ["exact"])
        [1.0]
    """
    return [
        score(extract(final_text(messages)), gold, how)
        for messages, gold, how in zip(completions, answer, metric, strict=True)
    ]


def final_text(messages: Sequence[dict[str, Any]]) -> str:
    """The text of the assistant's closing turn; empty where the rollout ended in a call or a tool."""
    last = messages[-1] if messages else {}
    if last.get("role") != "assistant" or last.get("tool_calls"):
        return ""
    content = last.get("content") or ""
    if isinstance(content, str):
        return content
    return "".join(part.get("text") or "" for part in content)


def alignment_reward(
    completions: Sequence[Any],
    student_block_sums: Sequence[BlockSums | None],
    teacher_block_sums: Sequence[BlockSums | None],
    prompt_key: Sequence[str],
    *,
    config: AlignmentConfig | None = None,
    trainer_state: Any = None,
    log_metric: Callable[[str, float], None] | None = None,
    **_: Any,
) -> list[float]:
    """Minus the divergence between the student's and the cached teacher's attribution of the call.

    Source: IAPO (arXiv 2606.11652); the treatment of missing calls is ours, *assumed*.

    Args:
        completions: one entry a rollout.
        student_block_sums: of the rollout's call; None where it made no valid one.
        teacher_block_sums: of the same or the nearest cached call; None where the cache has none.
        prompt_key: rollouts with the same key are one group, as far as they are in this call: where a group
            is spread over processes, each fills its missing calls from its own part.
        config: divergence, smoothing, what a missing call gets, and how lambda moves.
        trainer_state: TRL's, for the share of the run that is done; needed where lambda moves.
        log_metric: TRL's, for the penalty's mean and spread and the cache's coverage.

    Returns:
        Minus the penalty. With ``group_mean`` a rollout without a valid call gets the mean penalty of its
        group's others, so that not calling is no escape and no fault (0 where nobody called); with ``bound``
        it gets 1 (or ``config.most``). A group without teacher rows gets 0 throughout.

    Example:
        >>> alignment_reward([[], []], [[0, 1, 0, 0], None], [[0, 1, 0, 0]] * 2, ["a", "a"])
        [0.0, 0.0]
    """
    settings = config or AlignmentConfig()
    penalties = penalties_of_calls(student_block_sums, teacher_block_sums, settings)
    groups: dict[str, list[float]] = {
        key: [] for key, sums in zip(prompt_key, teacher_block_sums, strict=True) if sums is not None
    }
    for key, penalty in zip(prompt_key, penalties, strict=True):
        if penalty is not None:
            groups[key].append(penalty)
    if log_metric is not None:
        _log(penalties, student_block_sums, teacher_block_sums, log_metric)
    settled = [
        _settled(penalty, student is None, groups.get(key), settings)
        for penalty, student, key in zip(penalties, student_block_sums, prompt_key, strict=True)
    ]
    if settings.normalise == "batch":
        settled = _standardised(settled)
    factor = _schedule(settings, trainer_state)
    return [0.0 - factor * penalty for penalty in settled]


def _standardised(penalties: Sequence[float]) -> list[float]:
    """z-scores over the step, so that a group's few differences are not blown up to unit variance."""
    values = torch.tensor(penalties, dtype=torch.float64)
    return ((values - values.mean()) / values.std(correction=0).clamp(min=1e-6)).tolist()


def _schedule(config: AlignmentConfig, trainer_state: Any) -> float:
    """Lambda now over lambda at the start, which TRL multiplies by."""
    if config.weight_end is None or config.weight == 0:
        return 1.0
    if trainer_state is None:
        raise ValueError("alignment.weight_end is set, but the trainer passes no trainer_state; leave it null")
    done = trainer_state.global_step / max(1, trainer_state.max_steps - 1)
    return float(1 + min(1.0, done) * (config.weight_end / config.weight - 1))


def penalties_of_calls(
    student: Sequence[BlockSums | None],
    teacher: Sequence[BlockSums | None],
    config: AlignmentConfig,
) -> list[float | None]:
    """How far the student's shares of each call are from the teacher's; None where either is missing."""
    penalties: list[float | None] = [None] * len(student)
    # In a finer partition every prompt has its own number of blocks.
    alike: dict[int, list[int]] = defaultdict(list)
    for i, (s, t) in enumerate(zip(student, teacher, strict=True)):
        if s is not None and t is not None:
            alike[len(s)].append(i)
    for rows in alike.values():
        p, q = (
            distribution(torch.tensor([sums[i] for i in rows], dtype=torch.float64), config.smoothing)
            for sums in (student, teacher)
        )
        for i, penalty in zip(rows, divergence(p, q, config.divergence).tolist(), strict=True):
            penalties[i] = penalty if config.most is None else min(penalty, config.most)
    return penalties


def _settled(
    penalty: float | None, missing_call: bool, covered_group: Sequence[float] | None, config: AlignmentConfig
) -> float:
    """A rollout's penalty once its group's known penalties are in; None is a group without teacher rows."""
    if penalty is not None:
        return penalty
    if not missing_call or covered_group is None:
        return 0.0
    if config.missing_call == "bound":
        return config.most or 1.0
    return sum(covered_group) / len(covered_group) if covered_group else 0.0


def _log(
    penalties: Sequence[float | None],
    student: Sequence[BlockSums | None],
    teacher: Sequence[BlockSums | None],
    log_metric: Callable[[str, float], None],
) -> None:
    known = torch.tensor([penalty for penalty in penalties if penalty is not None])
    calls = sum(sums is not None for sums in student)
    covered = sum(s is not None and t is not None for s, t in zip(student, teacher, strict=True))
    if len(known):
        log_metric("alignment/penalty", known.mean().item())
        log_metric("alignment/penalty_std", known.std(correction=0).item())
    log_metric("alignment/coverage", covered / max(1, calls))
