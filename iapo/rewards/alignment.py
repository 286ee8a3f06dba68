"""The alignment reward: minus the divergence between the student's and the teacher's attribution of a tool call.

A function in TRL's reward signature, for any ``GRPOTrainer`` whose batches hold the columns of block sums;
:class:`iapo.training.attribution_mixin.AttributionMixin` adds them. TRL multiplies the reward by lambda through
``reward_weights``.

TRL takes a NaN for a reward that does not apply and adds nothing, which beats every penalty. So a penalty that is not
finite never leaves this module: it becomes its group's mean, or ends the run where it is no exception. Only outside of
TRL's sum, among right rollouts alone, is a missing penalty None: there it gets no advantage.

B: rollouts. K: blocks of a prompt, in the order P, R, I, T or that of the finer partition.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence

import torch

from iapo.alignment.penalty import BlockSums, penalties_of_calls
from iapo.config.schema import AlignmentConfig

_log = logging.getLogger(__name__)

_MAX_NON_FINITE = 0.5
"""Share of a step's penalties above which the missing ones are no exception that a mean could stand in for."""

_MAX_NAMED = 8
"""Most rollouts that a message names."""

_TOLD: list[object] = []
"""The state of the latest trainer that was told that the cache lacks prompts: at most one, so that nothing is kept."""


class PenaltyError(RuntimeError):
    """Too many penalties of a step are not finite; the message says which and what to do."""

    def __init__(self, problem: str, advice: str, rows: Sequence[int]) -> None:
        """
        Args:
            problem: what was found and expected.
            advice: what the user should do.
            rows: indices of the rollouts.
        """
        super().__init__(f"{problem}. {advice}")
        self.problem, self.advice, self.rows = problem, advice, list(rows)


def alignment_reward(
    completions: Sequence[object],
    student_block_sums: Sequence[BlockSums | None],
    teacher_block_sums: Sequence[BlockSums | None],
    prompt_key: Sequence[str],
    *,
    config: AlignmentConfig | None = None,
    cache_hit: Sequence[str | None] | None = None,
    log_metric: Callable[[str, float], None] | None = None,
    trainer_state: object = None,
    **_: object,
) -> list[float | None]:
    """Return minus the divergence between the student's and the cached teacher's attribution of each call.

    Source: IAPO (arXiv 2606.11652); the treatment of missing calls and of non-finite penalties is ours, *assumed*.

    Args:
        completions: [B] unused.
        student_block_sums: [B] block sums [K] of the rollout's call, nats; None where it made no valid call.
        teacher_block_sums: [B] block sums [K] of the same or the nearest cached call, nats; None where the cache has
            none.
        prompt_key: [B] keys of the prompts; rollouts with the same key form a group. If a group is split over
            processes, each process fills in missing calls from its own part of the group.
        config: divergence, smoothing, treatment of missing calls, and the form in which the penalty enters.
        cache_hit: [B] how each call's look-up ended, such as ``missing``, or ``no_teacher_call``, which needs no
            warning; None where it is not known.
        log_metric: TRL's logger, called with the mean and the spread of the penalty, the share of penalties that are
            not finite, and the coverage of the cache.
        trainer_state: TRL's; a warning that the cache lacks prompts is given once for each.

    Returns:
        [B] minus the penalty, in the unit of the divergence, always finite. A rollout without a valid call gets the
        mean penalty of its group with ``missing_call: group_mean``, so that not calling is neither rewarded nor
        punished (0 if no rollout of the group called); with ``bound`` it gets 1, or ``config.max_divergence`` if set. A
        penalty that is not finite becomes the mean of its group's finite ones. A group without teacher rows, or without
        any finite penalty, gets 0 throughout. With ``form: right`` and ``group_mean`` a rollout without a penalty of
        its own gets None instead: the mean that it stands at is that of the group's right calls.

    Raises:
        PenaltyError: where more than half of the step's penalties are not finite.

    Example:
        >>> alignment_reward([[], []], [[0, 1, 0, 0], None], [[0, 1, 0, 0]] * 2, ["a", "a"])
        [0.0, 0.0]
    """
    settings = config or AlignmentConfig()
    found = penalties_of_calls(student_block_sums, teacher_block_sums, settings)
    finite = [penalty if penalty is not None and math.isfinite(penalty) else None for penalty in found]
    non_finite = [i for i, penalty in enumerate(found) if penalty is not None and finite[i] is None]
    if log_metric is not None:
        _log_metrics(finite, len(non_finite), student_block_sums, teacher_block_sums, log_metric)
    _warn_of_missing_prompts(student_block_sums, teacher_block_sums, prompt_key, cache_hit, trainer_state)
    if non_finite:
        _check_non_finite(non_finite, found, student_block_sums, teacher_block_sums)
    groups = _covered_groups(finite, non_finite, teacher_block_sums, prompt_key)
    resolved = [
        _resolved(penalty, student is None, i in non_finite, groups.get(key), settings)
        for i, (penalty, student, key) in enumerate(zip(finite, student_block_sums, prompt_key, strict=True))
    ]
    if settings.normalise == "batch":
        resolved = _standardised(resolved)
    ranks_right_calls = settings.form == "right" and settings.missing_call == "group_mean"
    return [
        None if ranks_right_calls and own is None else 0.0 - penalty
        for own, penalty in zip(finite, resolved, strict=True)
    ]


def _covered_groups(
    finite: Sequence[float | None],
    non_finite: Sequence[int],
    teacher: Sequence[BlockSums | None],
    keys: Sequence[str],
) -> dict[str, list[float]]:
    """Return the finite penalties of each group with teacher rows, but of none whose penalties are all non-finite."""
    groups: dict[str, list[float]] = {key: [] for key, sums in zip(keys, teacher, strict=True) if sums is not None}
    for key, penalty in zip(keys, finite, strict=True):
        if penalty is not None:
            groups[key].append(penalty)
    without = {keys[i] for i in non_finite if not groups[keys[i]]}
    return {key: penalties for key, penalties in groups.items() if key not in without}


def _check_non_finite(
    rows: Sequence[int],
    found: Sequence[float | None],
    student: Sequence[BlockSums | None],
    teacher: Sequence[BlockSums | None],
) -> None:
    """Warn of penalties that are not finite; raise where they are too many."""
    known = sum(penalty is not None for penalty in found)
    named = ", ".join(map(str, rows[:_MAX_NAMED])) + (", ..." if len(rows) > _MAX_NAMED else "")
    problem = f"found {len(rows)} of the step's {known} alignment penalties not finite (rollouts {named})"
    of_teacher = any(not all(map(math.isfinite, teacher[i] or ())) for i in rows)
    first = rows[0]
    if len(rows) <= _MAX_NON_FINITE * known:
        _log.warning(
            "%s: they become the mean of their groups' finite ones, or 0 in a group without any; the first has the "
            "block sums %s, the teacher's are %s",
            problem,
            student[first],
            teacher[first],
        )
        return
    advice = (
        "The teacher's block sums in the cache are not finite: look at the rows of these prompts, and build the cache "
        "again in a higher precision"
        if of_teacher
        else "The student's block sums are not finite: its weights or its attribution overflow. Lower the learning "
        "rate, or attribute in a higher precision"
    )
    raise PenaltyError(f"{problem}, expected at most {_MAX_NON_FINITE:.0%}", f"{advice}.", rows)


def _warn_of_missing_prompts(
    student: Sequence[BlockSums | None],
    teacher: Sequence[BlockSums | None],
    keys: Sequence[str],
    kinds: Sequence[str | None] | None,
    trainer_state: object,
) -> None:
    """Say, once a trainer, that calls are not penalised since the cache has no row of their prompts."""
    missing = [
        key
        for key, s, t, kind in zip(keys, student, teacher, kinds or ["missing"] * len(keys), strict=True)
        if s is not None and t is None and kind == "missing"
    ]
    told = trainer_state is not None and any(state is trainer_state for state in _TOLD)
    if not missing or told:
        return
    _TOLD[:] = [trainer_state]
    calls = sum(sums is not None for sums in student)
    _log.warning(
        "the teacher's cache has no row for the prompts of %d of this step's %d calls (%.0f %%, such as prompt %s): "
        "they get no penalty, so the method is not applied to them. A prompt's key covers its text, pixels and "
        "processor: build the cache from the same training data with the same processor, or leave these prompts out. "
        "This is said once; the metric alignment/coverage goes on",
        len(missing),
        calls,
        100 * len(missing) / calls,
        missing[0],
    )


def _standardised(penalties: Sequence[float]) -> list[float]:
    """Return z-scores over the step; per group, even small differences would be scaled to unit variance."""
    values = torch.tensor(penalties, dtype=torch.float64)
    return ((values - values.mean()) / values.std(correction=0).clamp(min=1e-6)).tolist()


def _resolved(
    penalty: float | None,
    missing_call: bool,
    non_finite: bool,
    covered_group: Sequence[float] | None,
    config: AlignmentConfig,
) -> float:
    """Return a rollout's final penalty, filling in a missing one.

    Args:
        penalty: penalty of the rollout's call; None if it made no valid call, has no teacher row or is not finite.
        missing_call: whether the rollout made no valid call.
        non_finite: whether its penalty is not finite.
        covered_group: known penalties of its group; None for a group that is not penalised.
        config: treatment of missing calls.
    """
    if penalty is not None:
        return penalty
    if covered_group is None or not (missing_call or non_finite):
        return 0.0
    if missing_call and config.missing_call == "bound":
        return config.max_divergence or 1.0
    return sum(covered_group) / len(covered_group) if covered_group else 0.0


def _log_metrics(
    finite: Sequence[float | None],
    non_finite: int,
    student: Sequence[BlockSums | None],
    teacher: Sequence[BlockSums | None],
    log_metric: Callable[[str, float], None],
) -> None:
    known = torch.tensor([penalty for penalty in finite if penalty is not None])
    calls = sum(sums is not None for sums in student)
    covered = sum(s is not None and t is not None for s, t in zip(student, teacher, strict=True))
    if len(known):
        log_metric("alignment/penalty", known.mean().item())
        log_metric("alignment/penalty_std", known.std(correction=0).item())
    log_metric("alignment/non_finite", non_finite / max(1, covered))
    log_metric("alignment/coverage", covered / max(1, calls))
