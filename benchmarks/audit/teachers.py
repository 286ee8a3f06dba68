"""Informativeness of teachers: does the penalty separate the student's right calls from its wrong ones?

Measured for teachers of several seeds, and for each option of attribution and penalty.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypedDict

import numpy as np

from benchmarks.audit.errors import variation_from_converged
from iapo.alignment.informativeness import Informativeness, Verdict, agreement, informativeness
from iapo.artifacts.progress import Progress
from iapo.config.schema import AlignmentConfig, AttributionConfig, Config
from iapo.models.interfaces import Policy
from iapo.rollout.call_sampling import SampledCall, sample_calls
from iapo.teacher.online_scoring import LiveSums, live_penalties, score_calls
from iapo.types import Example


@dataclass(frozen=True)
class Asked:
    """The penalties of one teacher under one choice of settings, and how informative they are."""

    penalties: list[float]
    """[N] penalty of each sampled call."""
    answer: Informativeness


def ask_teachers(
    student: Callable[[], Policy],
    teachers: Mapping[int, Callable[[], Policy]],
    examples: Mapping[str, Example],
    calls: Sequence[SampledCall],
    config: Config,
) -> dict[int, Asked]:
    """Measure how informative each teacher is about the student's calls.

    Args:
        student: loads the policy that made the calls; one model at a time is held, so that a small GPU holds it.
        teachers: seed → what loads the teacher.
        examples: example id → prompt.
        calls: the student's sampled calls [N]; may be empty.
        config: configuration of the profile.

    Returns:
        Seed → penalties and informativeness; student and teachers are attributed live, without a cache.
    """
    if not calls:
        return {seed: Asked([], informativeness([], [], [])) for seed in teachers}
    mine = score_calls(*student(), examples, calls, config.attribution)
    return {
        seed: _measure(
            mine,
            score_calls(*load(), examples, calls, config.teacher_attribution),
            calls,
            config.alignment,
            config.statistics.seed,
        )
        for seed, load in teachers.items()
    }


class TeacherSummary(TypedDict):
    """Content of ``informative.json``."""

    verdict: str
    """``informative``, ``weak`` or ``not``: of the least informative teacher that students are compared with."""
    sentence: str
    """The same with its figures, in words."""
    teacher_seed: int
    """Seed of that teacher."""
    teachers: dict[str, dict[str, Any]]
    """Seed → fields of :class:`iapo.alignment.informativeness.Informativeness`."""
    agreement: float | None
    """Mean correlation of two teachers' penalties within groups; None where it is undefined."""
    agreement_pairs: list[float]
    """The correlation of each pair of teachers."""


_RANK: Mapping[Verdict, int] = {"not": 0, "weak": 1, "informative": 2}
"""Verdicts from the worst to the best."""


def summary(asked: Mapping[int, Asked], calls: Sequence[SampledCall], cached: Sequence[int]) -> TeacherSummary:
    """Summarise the teachers: the verdict that counts, those of the others, and their agreement.

    Args:
        asked: seed → result of :func:`ask_teachers`.
        calls: the sampled calls [N].
        cached: seeds of the teachers that students are compared with. The verdict on the least informative of them
            counts, since a share of the students gets no better one.
    """
    main = min(cached, key=lambda seed: (_RANK[asked[seed].answer.verdict], np.nan_to_num(asked[seed].answer.auc)))
    groups = [call.example_id for call in calls]
    pairs = [agreement(a.penalties, b.penalties, groups) for a, b in itertools.combinations(asked.values(), 2)]
    return {
        "verdict": asked[main].answer.verdict,
        "sentence": asked[main].answer.sentence,
        "teacher_seed": main,
        "teachers": {str(seed): asdict(each.answer) for seed, each in asked.items()},
        "agreement": float(np.nanmean(pairs)) if pairs and not np.isnan(pairs).all() else None,
        "agreement_pairs": pairs,
    }


OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "pad baseline": {"attribution": {"baseline": "pad"}},
    "mean-embedding baseline": {"attribution": {"baseline": "mean_embedding"}},
    "zero baseline": {"attribution": {"baseline": "zero"}},
    "flat-image baseline": {"attribution": {"baseline": "flat_image"}},
    "items": {"attribution": {"blocks": "items"}},
    "labels": {"attribution": {"blocks": "labels"}},
    "whole turn": {"attribution": {"target": "turn"}},
    "shapley": {"attribution": {"method": "shapley"}},
    "attention": {"attribution": {"method": "attention"}},
    "l1": {"attribution": {"magnitudes": True}, "alignment": {"aggregation": "l1"}},
    "length-normalised": {"alignment": {"aggregation": "length_normalised"}},
    "KL student‖teacher": {"alignment": {"divergence": "kl_student_teacher"}},
    "KL teacher‖student": {"alignment": {"divergence": "kl_teacher_student"}},
    "contrastive": {"alignment": {"contrastive": True}},
    "contrastive labels": {"attribution": {"blocks": "labels"}, "alignment": {"contrastive": True}},
    "teacher's own call": {"alignment": {"reference": "teacher_call"}},
}
"""Name of an option → the settings in which it differs from the profile."""


def compare_options(
    student: Policy,
    teachers: Mapping[int, Policy],
    examples: Mapping[str, Example],
    calls: Sequence[SampledCall],
    config: Config,
) -> list[dict[str, object]]:
    """Measure how informative the penalty is under each option, for each teacher.

    A more informative option may need more integration steps than training can afford, so the error of the student's
    block shares at the configured steps is reported as well.

    Args:
        student: the cold-started student.
        teachers: seed → teacher.
        examples: example id → prompt, of the dev split.
        calls: the student's sampled calls [N].
        config: configuration of the profile.

    Returns:
        One row per option and teacher seed: the fields of ``Informativeness``, and ``tv_mean`` and ``tv_p95``, the mean
        and 95th percentile of the total variation from the converged shares (nan for options without integration).
    """
    scored: dict[tuple[str, AttributionConfig], LiveSums] = {}
    integration_errors: dict[AttributionConfig, dict[str, float]] = {}

    def score(who: str, policy: Policy, what: Sequence[SampledCall], attribution: AttributionConfig) -> LiveSums:
        # Options that differ only in the penalty share their attributions.
        if (who, attribution) not in scored:
            scored[who, attribution] = score_calls(*policy, examples, what, attribution)
        return scored[who, attribution]

    own = {seed: _own_calls(teacher, examples, calls, config) for seed, teacher in teachers.items()}
    rows: list[dict[str, object]] = []
    with Progress(len(OPTIONS), "compare options", unit="option") as progress:
        for name, overrides in OPTIONS.items():
            attribution = replace(config.attribution, **overrides.get("attribution", {}))
            alignment = replace(config.alignment, **overrides.get("alignment", {}))
            mine = score("student", student, calls, attribution)
            if attribution not in integration_errors:
                integration_errors[attribution] = _integration_error(
                    student, mine, attribution, config.audit.reference_steps
                )
            by_own = alignment.reference == "teacher_call"
            for seed, teacher in teachers.items():
                what = own[seed] if by_own else calls
                theirs = score(f"{seed} {by_own}", teacher, what, replace(attribution, n_steps=config.teacher.n_steps))
                answer = _measure(mine, theirs, calls, alignment, config.statistics.seed).answer
                rows.append({"option": name, "teacher_seed": seed, **asdict(answer), **integration_errors[attribution]})
            progress.update(1)
    return rows


def _measure(
    student: LiveSums, teacher: LiveSums, calls: Sequence[SampledCall], alignment: AlignmentConfig, seed: int
) -> Asked:
    penalties = live_penalties(student, teacher, alignment)
    correct, groups = [call.correct for call in calls], [call.example_id for call in calls]
    return Asked(penalties, informativeness(penalties, correct, groups, seed=seed))


def _integration_error(student: Policy, mine: LiveSums, attribution: AttributionConfig, steps: int) -> dict[str, float]:
    if attribution.method != "integrated_gradients":
        return {"tv_mean": float("nan"), "tv_p95": float("nan")}
    found = variation_from_converged(student, mine, attribution, steps)
    return {"tv_mean": float(found.mean()), "tv_p95": float(np.quantile(found, 0.95))}


def _own_calls(
    teacher: Policy, examples: Mapping[str, Example], calls: Sequence[SampledCall], config: Config
) -> list[SampledCall]:
    """Replace each sampled call by the teacher's greedy call for the same prompt, where it makes one."""
    wanted = [examples[name] for name in dict.fromkeys(call.example_id for call in calls)]
    greedy = sample_calls(
        *teacher, wanted, rollouts=1, sampling=None, turn_tokens=config.evaluation.turn_tokens, seed=0
    )
    text = {call.example_id: call.text for call in greedy}
    return [replace(call, text=text.get(call.example_id, call.text)) for call in calls]
