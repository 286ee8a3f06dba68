"""The alignment reward: minus the divergence between the student's and the teacher's attribution of a tool call.

A pure function in TRL's reward signature, for any ``GRPOTrainer`` whose batches hold the columns of block sums;
:class:`iapo.training.attribution_mixin.AttributionMixin` adds them. TRL multiplies the reward by lambda through
``reward_weights``.

B: rollouts. K: blocks of a prompt, in the order P, R, I, T or that of the finer partition.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from iapo.alignment.penalty import BlockSums, penalties_of_calls
from iapo.config.schema import AlignmentConfig


def alignment_reward(
    completions: Sequence[object],
    student_block_sums: Sequence[BlockSums | None],
    teacher_block_sums: Sequence[BlockSums | None],
    prompt_key: Sequence[str],
    *,
    config: AlignmentConfig | None = None,
    log_metric: Callable[[str, float], None] | None = None,
    **_: object,
) -> list[float]:
    """Return minus the divergence between the student's and the cached teacher's attribution of each call.

    Source: IAPO (arXiv 2606.11652); the treatment of missing calls is ours, *assumed*.

    Args:
        completions: [B] unused.
        student_block_sums: [B] block sums [K] of the rollout's call, nats; None where it made no valid call.
        teacher_block_sums: [B] block sums [K] of the same or the nearest cached call, nats; None where the cache has
            none.
        prompt_key: [B] keys of the prompts; rollouts with the same key form a group. If a group is split over
            processes, each process fills in missing calls from its own part of the group.
        config: divergence, smoothing and treatment of missing calls.
        log_metric: TRL's logger, called with the mean and the spread of the penalty and the coverage of the cache.

    Returns:
        [B] minus the penalty, in the unit of the divergence. A rollout without a valid call gets the mean penalty
        of its group with ``missing_call: group_mean``, so that not calling is neither rewarded nor punished (0 if no
        rollout of the group called); with ``bound`` it gets 1, or ``config.max_divergence`` if set. A group without
        teacher rows gets 0 throughout.

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
    resolved = [
        _resolved(penalty, student is None, groups.get(key), settings)
        for penalty, student, key in zip(penalties, student_block_sums, prompt_key, strict=True)
    ]
    if settings.normalise == "batch":
        resolved = _standardised(resolved)
    return [0.0 - penalty for penalty in resolved]


def _standardised(penalties: Sequence[float]) -> list[float]:
    """Return z-scores over the step; per group, even small differences would be scaled to unit variance."""
    values = torch.tensor(penalties, dtype=torch.float64)
    return ((values - values.mean()) / values.std(correction=0).clamp(min=1e-6)).tolist()


def _resolved(
    penalty: float | None, missing_call: bool, covered_group: Sequence[float] | None, config: AlignmentConfig
) -> float:
    """Return a rollout's final penalty, filling in a missing one.

    Args:
        penalty: penalty of the rollout's call; None if it made no valid call or has no teacher row.
        missing_call: whether the rollout made no valid call.
        covered_group: known penalties of its group; None for a group without teacher rows.
        config: treatment of missing calls.
    """
    if penalty is not None:
        return penalty
    if not missing_call or covered_group is None:
        return 0.0
    if config.missing_call == "bound":
        return config.max_divergence or 1.0
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
