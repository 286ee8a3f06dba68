"""Reader of the teacher's cache: the teacher's attribution for each prompt and candidate call.

Rows are addressed by content: the cache's fingerprint covers the teacher's weights, processor, attribution settings and
code, and a prompt's key covers its token ids and pixels; neither depends on the student. The rows hold raw block sums,
so changing the divergence or the smoothing needs no new pass. :mod:`iapo.teacher.writer` writes the cache offline.
"""

from __future__ import annotations

import copy
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypedDict

import torch

from iapo.alignment.block_scores import Sums, aggregated
from iapo.config.schema import AlignmentConfig
from iapo.rollout.turns import ToolTurn
from iapo.teacher.rows import CacheRow, Shard, check_shard, read_manifest, read_shard
from iapo.tools.parsing import canonical
from iapo.types import ToolCall


def cached_sums(turn: ToolTurn, hit: CacheHit, config: AlignmentConfig) -> Sums:
    """Return the teacher's block sums of a turn from the cache, as the penalty compares them.

    The counterpart of :func:`iapo.alignment.block_scores.attributed_sums` for a cached row.

    Args:
        turn: the student's turn, which gives the blocks and their lengths.
        hit: what the cache holds for its call.
        config: aggregation, and whether a call is contrasted with the prompt's other cached calls.
    """
    sums = aggregated(turn, hit.signed, hit.l1, config.aggregation)
    if config.contrastive:
        sums = sums - aggregated(turn, hit.others, hit.others, config.aggregation)
    return [*sums.tolist()]


HitKind = Literal["exact", "same_tool", "nearest"]
"""How close the cached call is to the one looked up."""


MissKind = Literal["no_teacher_call", "missing"]
"""Why a look-up finds nothing: the teacher made no valid call on the prompt, or the cache does not know the prompt."""


HIT_KINDS: tuple[HitKind | MissKind, ...] = ("exact", "same_tool", "nearest", "no_teacher_call", "missing")
"""All outcomes of a look-up, for logging."""


@dataclass(frozen=True)
class CacheHit:
    """The result of a look-up, averaged if several rows are equally near."""

    signed: tuple[float, ...]
    """Signed block sums in the order P, R, I, T, or in that of a finer partition, nats."""
    l1: tuple[float, ...]
    """Sums of the tokens' absolute attributions per block, nats."""
    kind: HitKind
    """How close the cached call is to the one looked up."""
    others: tuple[float, ...]
    """Mean signed block sums of the prompt's other rows, nats; zeros if there are none."""


class CacheStats(TypedDict):
    """Summary of a cache."""

    fingerprint: str
    prompts: int
    """Prompts with at least one row."""
    rows: int
    rows_per_prompt: float
    rows_by_source: dict[str, int]
    share_correct: float | None
    """Share of correct calls among those with annotation; None if there are none."""
    shards: int
    bytes: int
    """Size of the shards on disk."""
    convergence_delta_median: float
    convergence_delta_p95: float


class TeacherCache:
    """A cache on disk, read into memory as a whole and verified against its manifest."""

    def __init__(self, path: str | Path) -> None:
        """
        Args:
            path: directory written by :class:`iapo.teacher.writer.CacheWriter`.

        Raises:
            CacheError: if the manifest is missing, unreadable or of another schema version, or if a shard is missing
                or altered.
        """
        directory = Path(path)
        manifest = read_manifest(directory)
        self.fingerprint: str = manifest["fingerprint"]
        self.shards: dict[str, Shard] = manifest["shards"]
        rows: list[CacheRow] = []
        for name, shard in self.shards.items():
            check_shard(directory / name, shard["sha256"])
            rows += read_shard(directory / name)
        self._complete = {key for shard in self.shards.values() for key in shard["prompts"]}
        self._index(rows)

    def _index(self, rows: list[CacheRow]) -> None:
        self.rows = rows
        self._by_prompt: dict[str, list[CacheRow]] = {}
        for row in self.rows:
            self._by_prompt.setdefault(row.prompt_key, []).append(row)
        self._exact: dict[tuple[str, str], CacheRow] = {}
        for row in reversed(self.rows):
            self._exact[row.prompt_key, canonical(row.call)] = row
        self._hits: dict[tuple[str, ToolCall], CacheHit] = {}

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def prompts(self) -> list[str]:
        """Keys of the prompts with at least one row."""
        return list(self._by_prompt)

    def lookup(self, key: str, call: ToolCall) -> CacheHit | None:
        """Return the teacher's block sums for a call, or for the nearest cached call.

        Args:
            key: key of the prompt.
            call: the student's call.

        Returns:
            The row of the same call if there is one. Otherwise the nearest row: first by tool family, then by mode,
            then by the Jaccard distance of the labels. None if the prompt has no row.
        """
        rows = self._by_prompt.get(key)
        if not rows:
            return None
        if (key, call) not in self._hits:
            self._hits[key, call] = _find(call, rows, self._exact.get((key, canonical(call))))
        return self._hits[key, call]

    def kind(self, key: str, hit: CacheHit | None) -> HitKind | MissKind:
        """Return how a look-up on a prompt ended.

        Args:
            key: key of the prompt.
            hit: what :meth:`lookup` returned for it.
        """
        if hit is not None:
            return hit.kind
        return "no_teacher_call" if key in self._complete else "missing"

    def teacher_call(self, key: str) -> CacheHit | None:
        """Return the row of the teacher's own first call; None if the prompt has no row."""
        rows = self._by_prompt.get(key)
        return _hit([min(rows, key=lambda row: row.rank)], rows, "exact") if rows else None

    def teacher_turn(self, key: str) -> str | None:
        """Return the turn in which the teacher makes its own first call; None if the prompt has no row."""
        rows = self._by_prompt.get(key)
        return min(rows, key=lambda row: row.rank).call_text if rows else None

    def shuffled(self, seed: int) -> TeacherCache:
        """Return a cache of the same calls in which each has the block sums of another call of the same prompt.

        The control of the teacher's knowledge: a look-up finds the same calls, and a prompt has the same targets,
        equally often and equally far apart, but a target says nothing about its call. A call keeps its stand-in.

        Args:
            seed: seed of the draw, which every prompt makes by itself. Only the one row of a prompt stays where it is.
        """
        moved = copy.copy(self)
        moved._index([row for key, rows in self._by_prompt.items() for row in _permuted(rows, f"{seed} {key}")])
        return moved


def _permuted(rows: Sequence[CacheRow], seed: str) -> list[CacheRow]:
    """Return the rows of a prompt in their order, with the block sums moved along one random cycle (Sattolo)."""
    rng = random.Random(seed)
    # By content, since the order of the shards is that in which the cache was built.
    order = sorted(range(len(rows)), key=lambda i: canonical(rows[i].call))
    givers = list(order)
    for i in range(len(givers) - 1, 0, -1):
        j = rng.randrange(i)
        givers[i], givers[j] = givers[j], givers[i]
    giver = dict(zip(order, givers, strict=True))
    return [replace(row, signed=rows[giver[i]].signed, l1=rows[giver[i]].l1) for i, row in enumerate(rows)]


def _find(call: ToolCall, rows: Sequence[CacheRow], exact: CacheRow | None) -> CacheHit:
    # Family and mode outrank the labels, so either all of the nearest rows use the call's tool or none does.
    nearest = _nearest(call, rows) if exact is None else [exact]
    same_tool = nearest[0].call.name == call.name
    return _hit(nearest, rows, "exact" if exact else "same_tool" if same_tool else "nearest")


def _hit(nearest: Sequence[CacheRow], rows: Sequence[CacheRow], kind: HitKind) -> CacheHit:
    others = [row.signed for row in rows if row not in nearest]
    return CacheHit(
        _mean([row.signed for row in nearest]),
        _mean([row.l1 for row in nearest]),
        kind,
        _mean(others) if others else (0.0,) * len(nearest[0].signed),
    )


def cache_stats(directory: Path) -> CacheStats:
    """Summarise a cache for people: prompts, rows by source, size and completeness errors."""
    cache = TeacherCache(directory)
    convergence_deltas = torch.tensor([row.convergence_delta for row in cache.rows] or [0.0], dtype=torch.float64)
    return {
        "fingerprint": cache.fingerprint,
        "prompts": len(cache.prompts),
        "rows": len(cache),
        "rows_per_prompt": len(cache) / max(1, len(cache.prompts)),
        "rows_by_source": dict(Counter(row.source for row in cache.rows)),
        "share_correct": _share([row.correct for row in cache.rows if row.correct is not None]),
        "shards": len(cache.shards),
        "bytes": sum((directory / name).stat().st_size for name in cache.shards),
        "convergence_delta_median": convergence_deltas.quantile(0.5).item(),
        "convergence_delta_p95": convergence_deltas.quantile(0.95).item(),
    }


def _share(values: Sequence[bool]) -> float | None:
    return sum(values) / len(values) if values else None


def _nearest(call: ToolCall, rows: Sequence[CacheRow]) -> list[CacheRow]:
    distances = [_distance(call, row.call) for row in rows]
    least = min(distances)
    return [row for row, distance in zip(rows, distances, strict=True) if distance == least]


def _distance(one: ToolCall, other: ToolCall) -> tuple[bool, bool, float]:
    """Return a sortable distance: family, then mode, then the Jaccard distance of the labels."""
    a, b = set(one.labels), set(other.labels)
    union = len(a | b)
    jaccard = 1 - len(a & b) / union if union else 0.0
    return (one.family != other.family, one.mode != other.mode, jaccard)


def _mean(sums: Sequence[tuple[float, ...]]) -> tuple[float, ...]:
    return tuple(sum(values) / len(sums) for values in zip(*sums, strict=True))
