"""Comparison of the cached alignment penalty with that of a teacher run live on the same calls.

Shapes: N sampled calls, M of them with a row in the cache.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path

import numpy as np

from iapo.alignment.informativeness import centre, correlation, informativeness
from iapo.alignment.penalty import penalties_of_calls
from iapo.config.schema import AlignmentConfig, Config
from iapo.models.interfaces import Policy
from iapo.rollout.call_sampling import SampledCall
from iapo.teacher.build_cache import cache_row, fill_copy
from iapo.teacher.cache import HIT_KINDS, CacheHit, TeacherCache, cached_sums
from iapo.teacher.online_scoring import LiveSums, live_penalties, score_calls
from iapo.teacher.writer import CacheWriter
from iapo.types import Example, ToolCall


@dataclass(frozen=True)
class CacheAudit:
    """The penalties of a policy's sampled calls, from the cache and from the live teacher."""

    cached: list[float]
    """[M] penalties from the cache, of the calls that it has a row for."""
    live: list[float]
    """[M] penalties of the same calls from the live teacher."""
    groups: list[str]
    """[M] example id of each call's prompt."""
    correct: list[bool]
    """[M] whether each call is right."""
    exact: list[bool]
    """[M] whether the cache holds this exact call; otherwise its row is that of the nearest call."""
    hits: dict[str, float]
    """Kind of cache hit → share of all sampled calls."""
    live_seconds: float
    """Time that the live teacher takes to attribute the calls, seconds."""
    lookup_seconds: float
    """Time that the look-ups of the same calls take, seconds."""
    student: LiveSums
    """The student's attribution of the calls."""
    teacher: LiveSums
    """The live teacher's attribution of the calls."""

    @property
    def within_group_r(self) -> float:
        """Correlation of cached and live penalties, centred within groups; nan if either is constant."""
        return self._agreement([True] * len(self.groups))

    @property
    def within_group_r_exact(self) -> float:
        """The same correlation over exact hits only, where no other call stands in."""
        return self._agreement(self.exact)

    def _agreement(self, chosen: Sequence[bool]) -> float:
        groups = list(compress(self.groups, chosen))
        cached, live = (np.array(list(compress(each, chosen)), dtype=np.float64) for each in (self.cached, self.live))
        return correlation(centre(cached, groups), centre(live, groups))

    def facts(self) -> dict[str, float]:
        """Return the figures for the audit's summary, by name."""
        return {
            "within_group_r": self.within_group_r,
            "within_group_r_exact": self.within_group_r_exact,
            **{f"hit_rate_{kind}": share for kind, share in self.hits.items()},
            "correctness_r_cached": informativeness(self.cached, self.correct, self.groups).correlation,
            "correctness_r_live": informativeness(self.live, self.correct, self.groups).correlation,
            "calls": len(self.cached),
            "live_seconds": self.live_seconds,
            "lookup_seconds": self.lookup_seconds,
        }


def audit_cache(
    student: Policy,
    teacher: Policy,
    cache: TeacherCache,
    examples: Mapping[str, Example],
    calls: Sequence[SampledCall],
    config: Config,
) -> CacheAudit:
    """Score sampled calls with the cache and with the live teacher.

    Args:
        student: the policy.
        teacher: the teacher that filled the cache.
        cache: the cache to audit.
        examples: example id → prompt.
        calls: the student's sampled calls [N].
        config: configuration of the profile.
    """
    mine = score_calls(*student, examples, calls, config.attribution)
    started = time.perf_counter()
    theirs = score_calls(*teacher, examples, calls, config.teacher_attribution)
    live_seconds = time.perf_counter() - started
    return compare(mine, theirs, cache, calls, config, live_seconds)


def compare(
    mine: LiveSums,
    theirs: LiveSums,
    cache: TeacherCache,
    calls: Sequence[SampledCall],
    config: Config,
    live_seconds: float,
) -> CacheAudit:
    """Compare cache and live teacher on calls that both models have attributed already.

    Args:
        mine: the student's attribution of the calls.
        theirs: the live teacher's attribution of the calls.
        cache: the cache to audit.
        calls: the student's sampled calls [N].
        config: configuration of the profile.
        live_seconds: time that the live teacher took.
    """
    live = live_penalties(mine, theirs, config.alignment)
    keys = _keys(mine)
    started = time.perf_counter()
    hits = [cache.lookup(key, call.call) for key, call in zip(keys, calls, strict=True)]
    lookup_seconds = time.perf_counter() - started
    cached = _cached_penalties(hits, mine, config.alignment)
    known = [i for i, penalty in enumerate(cached) if penalty is not None]
    kinds = [cache.kind(key, hit) for key, hit in zip(keys, hits, strict=True)]
    return CacheAudit(
        cached=[penalty for penalty in cached if penalty is not None],
        live=[live[i] for i in known],
        groups=[calls[i].example_id for i in known],
        correct=[calls[i].correct for i in known],
        exact=[kinds[i] == "exact" for i in known],
        hits={kind: kinds.count(kind) / len(kinds) for kind in HIT_KINDS},
        live_seconds=live_seconds,
        lookup_seconds=lookup_seconds,
        student=mine,
        teacher=theirs,
    )


def filled(
    cache: Path,
    teacher: Policy,
    examples: Sequence[Example],
    misses: Mapping[str, Sequence[ToolCall]],
    config: Config,
) -> TeacherCache:
    """Return a copy of the cache that also holds the calls that training runs missed; the original is not changed.

    Args:
        cache: directory of the cache.
        teacher: the teacher that filled it.
        examples: prompts to fill.
        misses: prompt key → missed calls.
        config: configuration of the profile.
    """
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory) / "cache"
        fill_copy(cache, copy, teacher, examples, misses, config)
        return TeacherCache(copy)


def self_teacher_penalty(
    policy: Policy, examples: Mapping[str, Example], calls: Sequence[SampledCall], config: Config
) -> float:
    """Return the largest penalty of a policy that is its own teacher, through a cache on disk: 0 up to rounding.

    The teacher scores the calls in reverse order, so that the check covers batching as well.
    """
    mine = score_calls(*policy, examples, calls, config.attribution)
    theirs = score_calls(*policy, examples, calls[::-1], config.attribution)
    unique = dict(zip(theirs.place, calls[::-1], strict=True))
    with tempfile.TemporaryDirectory() as directory:
        writer = CacheWriter(Path(directory), "self")
        rows = [
            cache_row(turn.prompt.key, turn, theirs.result, i, source="sampled", rank=i, correct=unique[i].correct)
            for i, turn in enumerate(theirs.turns)
        ]
        writer.add(rows, prompts=[], candidates="self")
        cache = TeacherCache(directory)
    hits = [cache.lookup(key, call.call) for key, call in zip(_keys(mine), calls, strict=True)]
    found = _cached_penalties(hits, mine, config.alignment)
    return max(penalty for penalty in found if penalty is not None)


def _keys(scored: LiveSums) -> list[str]:
    """[N] cache key of each sampled call's prompt."""
    keys = [turn.prompt.key for turn in scored.turns]
    return [keys[i] for i in scored.place]


def _cached_penalties(
    hits: Sequence[CacheHit | None], student: LiveSums, config: AlignmentConfig
) -> list[float | None]:
    """[N] penalties from the cache; None where the look-up found nothing."""
    sums = [
        None if hit is None else cached_sums(student.turns[i], hit, config)
        for hit, i in zip(hits, student.place, strict=True)
    ]
    return penalties_of_calls(student.sums(config), sums, config)
