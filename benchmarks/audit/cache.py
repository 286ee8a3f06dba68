"""The cached penalty held against a teacher that is at hand."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.audit.errors import Policy
from iapo.block_sums import cached_sums
from iapo.cache_writer import CacheWriter
from iapo.config import AlignmentConfig, Config
from iapo.informative import centre, correlation, informativeness
from iapo.live import LiveSums, live_penalties, score_calls
from iapo.probe import SampledCall
from iapo.rewards import penalties_of_calls
from iapo.teacher import TeacherPass, cache_row
from iapo.teacher_cache import HIT_KINDS, CacheHit, TeacherCache
from iapo.types import Example, ToolCall


@dataclass(frozen=True)
class CacheAudit:
    """A policy's sampled calls under the cache and under the live teacher."""

    cached: list[float]
    """[M] penalties of the calls that the cache has a row for."""
    live: list[float]
    """[M] of the same calls by the live teacher."""
    groups: list[str]
    """[M] the prompt of each."""
    correct: list[bool]
    """[M]"""
    exact: list[bool]
    """[M] whether the cache holds the very call; for the others the nearest one stands in."""
    hits: dict[str, float]
    """Kind → share of all sampled calls."""
    live_seconds: float
    """Of the teacher's passes for these calls."""
    lookup_seconds: float
    """Of the look-ups for the same calls."""
    student: LiveSums
    teacher: LiveSums

    @property
    def within_group_r(self) -> float:
        """Correlation of the two penalties, each centred within its group; nan where either is constant."""
        return self._agreement([True] * len(self.groups))

    @property
    def within_group_r_exact(self) -> float:
        """The same over the calls that the cache holds: what is left to lose where nothing stands in."""
        return self._agreement(self.exact)

    def _agreement(self, chosen: Sequence[bool]) -> float:
        groups = list(compress(self.groups, chosen))
        cached, live = (np.array(list(compress(each, chosen)), dtype=np.float64) for each in (self.cached, self.live))
        return correlation(centre(cached, groups), centre(live, groups))

    def facts(self) -> dict[str, Any]:
        """For the summary."""
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
    """What the cache says about the calls, and what the teacher would have said."""
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
    """The same of calls that are scored already.

    Args:
        mine: the student's attribution.
        theirs: the live teacher's.
        cache: what is held against it.
        calls: the student's.
        config: of the run.
        live_seconds: what the live teacher took.
    """
    live = live_penalties(mine, theirs, config.alignment)
    keys = _keys(cache, mine)
    started = time.perf_counter()
    hits = [cache.lookup(key, call.call) for key, call in zip(keys, calls, strict=True)]
    lookup_seconds = time.perf_counter() - started
    cached = _cached_penalties(hits, mine, config.alignment)
    known = [i for i, penalty in enumerate(cached) if penalty is not None]
    kinds = ["missing" if hit is None else hit.kind for hit in hits]
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
    """What the cache would hold once the calls that training runs missed are scored too; its files stay as they are.

    Args:
        cache: its directory.
        teacher: whose cache it is.
        examples: the prompts to fill.
        misses: prompt key → calls.
        config: of the run.
    """
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(shutil.copytree(cache, Path(directory) / "cache"))
        before = TeacherCache(copy)
        writer = CacheWriter(copy, before.fingerprint)
        TeacherPass(*teacher, config, writer, before.fingerprint).fill(examples, misses, before)
        return TeacherCache(copy)


def self_teacher_penalty(
    policy: Policy, examples: Mapping[str, Example], calls: Sequence[SampledCall], config: Config
) -> float:
    """Largest penalty of a policy that is its own teacher, through a cache on disk; 0 up to rounding.

    Rows are scored in another order than the student's, so that batching is part of what is checked.
    """
    mine = score_calls(*policy, examples, calls, config.attribution)
    theirs = score_calls(*policy, examples, calls[::-1], config.attribution)
    unique = dict(zip(theirs.place, calls[::-1], strict=True))
    with tempfile.TemporaryDirectory() as directory:
        writer = CacheWriter(Path(directory), "self")
        rows = [
            cache_row(
                turn.prompt.key("self"), turn, theirs.result, i, source="sampled", rank=i, correct=unique[i].correct
            )
            for i, turn in enumerate(theirs.turns)
        ]
        writer.add(rows, prompts=[], candidates="self")
        cache = TeacherCache(directory)
    hits = [cache.lookup(key, call.call) for key, call in zip(_keys(cache, mine), calls, strict=True)]
    found = _cached_penalties(hits, mine, config.alignment)
    return max(penalty for penalty in found if penalty is not None)


def _keys(cache: TeacherCache, scored: LiveSums) -> list[str]:
    """[N] the address of each sampled call's prompt."""
    keys = [turn.prompt.key(cache.fingerprint) for turn in scored.turns]
    return [keys[i] for i in scored.place]


def _cached_penalties(
    hits: Sequence[CacheHit | None], student: LiveSums, config: AlignmentConfig
) -> list[float | None]:
    """[N] penalties by what the look-ups found."""
    sums = [
        None if hit is None else cached_sums(student.turns[i], hit, config)
        for hit, i in zip(hits, student.place, strict=True)
    ]
    return penalties_of_calls(student.sums(config), sums, config)
