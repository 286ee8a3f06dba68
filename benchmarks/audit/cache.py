"""The cached penalty held against a teacher that is at hand, and the cheap attribution against a converged one."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.audit.teachers import Policy
from iapo.alignment import distribution
from iapo.block_sums import cached_sums
from iapo.cache_writer import CacheWriter
from iapo.config import AttributionConfig, Config
from iapo.informative import centre, correlation, informativeness
from iapo.live import LiveSums, live_penalties, score_calls
from iapo.probe import SampledCall
from iapo.rewards import penalties_of_calls
from iapo.teacher import score_turns
from iapo.teacher_cache import CacheRow, TeacherCache, prompt_key
from iapo.turns import ToolTurn
from iapo.types import Example

KINDS = ("exact", "same_tool", "nearest", "missing")


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
        cached, live = (np.asarray(values, dtype=np.float64) for values in (self.cached, self.live))
        return correlation(centre(cached, self.groups), centre(live, self.groups))

    def facts(self) -> dict[str, Any]:
        """For the summary."""
        return {
            "within_group_r": self.within_group_r,
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
    live = live_penalties(mine, theirs, config.alignment)
    keys = [_key(cache, mine.turns[i]) for i in mine.place]
    started = time.perf_counter()
    hits = [cache.lookup(key, call.call) for key, call in zip(keys, calls, strict=True)]
    lookup_seconds = time.perf_counter() - started
    sums = [
        None if hit is None else cached_sums(mine.turns[i], hit, config.alignment)
        for hit, i in zip(hits, mine.place, strict=True)
    ]
    cached = penalties_of_calls(mine.sums(config.alignment), sums, config.alignment)
    known = [i for i, penalty in enumerate(cached) if penalty is not None]
    kinds = ["missing" if hit is None else hit.kind for hit in hits]
    return CacheAudit(
        cached=[penalty for penalty in cached if penalty is not None],
        live=[live[i] for i in known],
        groups=[calls[i].example_id for i in known],
        correct=[calls[i].correct for i in known],
        hits={kind: kinds.count(kind) / len(kinds) for kind in KINDS},
        live_seconds=live_seconds,
        lookup_seconds=lookup_seconds,
        student=mine,
        teacher=theirs,
    )


def total_variation(policy: Policy, scored: LiveSums, config: AttributionConfig, points: int) -> NDArray[np.float64]:
    """Distance of each prompt's first call's block distribution from the converged one.

    Args:
        policy: student or teacher.
        scored: its attribution under ``config``.
        config: the settings that training uses.
        points: midpoints of the reference.

    Returns:
        [prompts] in [0, 1].
    """
    model, processor = policy
    first = {id(turn.prompt): i for i, turn in reversed(list(enumerate(scored.turns)))}
    chosen = sorted(first.values())
    exact = replace(config, points=points, quadrature="midpoint", tolerance=1e9)
    reference = score_turns(model, processor.tokenizer, [scored.turns[i] for i in chosen], exact)
    cheap = distribution(scored.result.signed[chosen], 0.0)
    return np.asarray(0.5 * (cheap - distribution(reference.signed, 0.0)).abs().sum(-1).cpu().numpy())


def autocast_variation(policy: Policy, scored: LiveSums, config: AttributionConfig) -> NDArray[np.float64]:
    """Distance of each turn's block distribution under bfloat16 autocast from the one in fp32: [D] in [0, 1]."""
    model, processor = policy
    with torch.autocast(model.device.type, dtype=torch.bfloat16):
        half = score_turns(model, processor.tokenizer, scored.turns, config)
    gap = distribution(half.signed, 0.0) - distribution(scored.result.signed, 0.0)
    return np.asarray(0.5 * gap.abs().sum(-1).cpu().numpy())


def self_teacher_penalty(
    policy: Policy, examples: Mapping[str, Example], calls: Sequence[SampledCall], config: Config
) -> float:
    """Largest penalty of a policy that is its own teacher, through a cache on disk; 0 up to rounding.

    Rows are scored in another order than the student's, so that batching is part of what is checked.
    """
    mine = score_calls(*policy, examples, calls, config.attribution)
    theirs = score_calls(*policy, examples, calls[::-1], config.attribution)
    unique = {theirs.place[i]: call for i, call in enumerate(calls[::-1])}
    with tempfile.TemporaryDirectory() as directory:
        writer = CacheWriter(Path(directory), "self")
        empty = TeacherCache(directory)
        rows = [_row(_key(empty, theirs.turns[i]), call, theirs, i) for i, call in unique.items()]
        writer.add(rows, prompts=[], candidates="self")
        cache = TeacherCache(directory)
    sums = []
    for call, i in zip(calls, mine.place, strict=True):
        hit = cache.lookup(_key(cache, mine.turns[i]), call.call)
        sums.append(None if hit is None else cached_sums(mine.turns[i], hit, config.alignment))
    found = penalties_of_calls(mine.sums(config.alignment), sums, config.alignment)
    return max(penalty for penalty in found if penalty is not None)


def _row(key: str, call: SampledCall, scored: LiveSums, i: int) -> CacheRow:
    blocks, result = scored.turns[i].prompt.blocks, scored.result

    def row(sums: Tensor) -> tuple[float, ...]:
        return tuple(sums[i, :blocks].tolist())

    return CacheRow(
        prompt_key=key,
        call=call.call,
        signed=row(result.signed),
        l1=row(result.l1),
        log_p=result.log_p[i].item(),
        delta_f=result.delta_f[i].item(),
        residual=result.residual[i].item(),
        source="sampled",
        rank=i,
        correct=call.correct,
        call_text=call.text,
    )


def _key(cache: TeacherCache, turn: ToolTurn) -> str:
    fields = turn.prompt.fields
    return prompt_key(
        cache.fingerprint, turn.prompt.input_ids, fields.get("pixel_values"), fields.get("image_grid_thw")
    )


def residuals(result: Any) -> tuple[float, float]:
    """Median and 95th percentile of the completeness errors."""
    values = torch.as_tensor(result.residual)
    return values.quantile(0.5).item(), values.quantile(0.95).item()
