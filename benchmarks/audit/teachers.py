"""Teachers of several seeds asked whether their attribution tells the student's right calls from its wrong ones."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from benchmarks.audit.errors import Policy, variation_from_converged
from iapo.config import AttributionConfig, Config, with_overrides
from iapo.informative import Informativeness, agreement, informativeness
from iapo.live import LiveSums, live_penalties, score_calls
from iapo.probe import SampledCall, sample_calls
from iapo.progress import Progress
from iapo.types import Example


@dataclass(frozen=True)
class Asked:
    """One teacher under one choice of settings."""

    penalties: list[float]
    """[N] of the sampled calls."""
    answer: Informativeness


def ask_teachers(
    student: Policy,
    teachers: Mapping[int, Policy],
    examples: Mapping[str, Example],
    calls: Sequence[SampledCall],
    config: Config,
) -> dict[int, Asked]:
    """Teacher seed → what it says about the calls, if there are any; student and teachers run live."""
    if not calls:
        return {seed: Asked([], informativeness([], [], [])) for seed in teachers}
    mine = score_calls(*student, examples, calls, config.attribution)
    return {
        seed: _asked(mine, score_calls(*teacher, examples, calls, config.teacher_attribution), calls, config)
        for seed, teacher in teachers.items()
    }


def summary(asked: Mapping[int, Asked], calls: Sequence[SampledCall], main: int) -> dict[str, Any]:
    """What stands beside the table: the main teacher's verdict, the others', and how far they agree."""
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
"""Name → settings that differ from the profile's; everything else is held."""


def compare_options(
    student: Policy,
    teachers: Mapping[int, Policy],
    examples: Mapping[str, Example],
    calls: Sequence[SampledCall],
    config: Config,
) -> list[dict[str, Any]]:
    """One row per option and teacher seed: how informative the penalty is under it.

    Beside it what the student's block shares err by at the set points (``tv_mean``, ``tv_p95``; nan where nothing is
    integrated): an option that tells more may need more points than a step should pay for.

    Args:
        student: the cold-started student.
        teachers: seed → teacher.
        examples: example id → prompt, of the dev split.
        calls: the student's.
        config: of the profile.
    """
    scored: dict[tuple[str, AttributionConfig], LiveSums] = {}
    erred: dict[AttributionConfig, dict[str, float]] = {}

    def score(who: str, policy: Policy, what: Sequence[SampledCall], attribution: AttributionConfig) -> LiveSums:
        # Options that change the penalty alone share their attributions.
        if (who, attribution) not in scored:
            scored[who, attribution] = score_calls(*policy, examples, what, attribution)
        return scored[who, attribution]

    own = {seed: _own_calls(teacher, examples, calls, config) for seed, teacher in teachers.items()}
    rows = []
    with Progress(len(OPTIONS), "compare options", unit="option") as progress:
        for name, overrides in OPTIONS.items():
            settled = with_overrides(config, overrides, f"option {name}")
            mine = score("student", student, calls, settled.attribution)
            if settled.attribution not in erred:
                erred[settled.attribution] = _error(student, mine, settled)
            by_own = settled.alignment.reference == "teacher_call"
            for seed, teacher in teachers.items():
                what = own[seed] if by_own else calls
                theirs = score(f"{seed} {by_own}", teacher, what, settled.teacher_attribution)
                answer = _asked(mine, theirs, calls, settled).answer
                rows.append({"option": name, "teacher_seed": seed, **asdict(answer), **erred[settled.attribution]})
            progress.update(1)
    return rows


def _asked(student: LiveSums, teacher: LiveSums, calls: Sequence[SampledCall], config: Config) -> Asked:
    penalties = live_penalties(student, teacher, config.alignment)
    correct, groups = [call.correct for call in calls], [call.example_id for call in calls]
    return Asked(penalties, informativeness(penalties, correct, groups, seed=config.statistics.seed))


def _error(student: Policy, mine: LiveSums, config: Config) -> dict[str, float]:
    if config.attribution.method != "integrated_gradients":
        return {"tv_mean": float("nan"), "tv_p95": float("nan")}
    found = variation_from_converged(student, mine, config.attribution, config.audit.reference_points)
    return {"tv_mean": float(found.mean()), "tv_p95": float(np.quantile(found, 0.95))}


def _own_calls(
    teacher: Policy, examples: Mapping[str, Example], calls: Sequence[SampledCall], config: Config
) -> list[SampledCall]:
    """The sampled calls with the teacher's greedy turn in their place, where it makes one."""
    wanted = [examples[name] for name in dict.fromkeys(call.example_id for call in calls)]
    greedy = sample_calls(
        *teacher, wanted, rollouts=1, temperature=None, turn_tokens=config.evaluation.turn_tokens, seed=0
    )
    text = {call.example_id: call.text for call in greedy}
    return [replace(call, text=text.get(call.example_id, call.text)) for call in calls]
