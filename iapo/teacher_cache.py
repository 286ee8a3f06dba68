"""The teacher's attribution per prompt and candidate call: written offline, read in training.

Rows are addressed by content: a prompt's key covers the teacher's weights, the processor, the attribution
settings, the prompt's token ids and its pixels, never the student. Raw block sums are stored, so another
divergence or smoothing needs no new pass. :mod:`iapo.cache_writer` writes what is read here.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from iapo.config import AttributionConfig
from iapo.provenance import sha256_file
from iapo.tools import canonical
from iapo.types import ToolCall

SCHEMA_VERSION = 2
"""Part of every fingerprint; raise it when the meaning of a row changes."""

_BLOCKS = pa.list_(pa.float64())
SCHEMA = pa.schema(
    [
        ("prompt_key", pa.string()),
        ("canonical_call", pa.string()),
        ("tool", pa.string()),
        ("labels", pa.list_(pa.string())),
        ("signed", _BLOCKS),
        ("l1", _BLOCKS),
        ("log_p", pa.float64()),
        ("delta_f", pa.float64()),
        ("residual", pa.float64()),
        ("source", pa.string()),
        ("rank", pa.int32()),
        ("correct", pa.bool_()),
        ("call_text", pa.string()),
    ]
)


HitKind = Literal["exact", "same_tool", "nearest"]
HIT_KINDS = ("exact", "same_tool", "nearest", "missing")
"""What a look-up can come to."""


class CacheError(RuntimeError):
    """The cache cannot be used; the message names the file, what was found and what to do."""


@dataclass(frozen=True)
class CacheRow:
    """The teacher's attribution of one call on one prompt."""

    prompt_key: str
    call: ToolCall
    signed: tuple[float, ...]
    """Block sums P, R, I, T, or those of a finer partition, nats."""
    l1: tuple[float, ...]
    """Sums of magnitudes per block, nats."""
    log_p: float
    """Log-probability of the call on the prompt, nats."""
    delta_f: float
    """Log-probability of the call on the prompt minus on the baseline, nats."""
    residual: float
    """Completeness error, no unit."""
    source: Literal["sampled", "enumerated", "filled"]
    """Sampled from the teacher, one of the legal calls near it, or added for a call that a student made."""
    rank: int
    """Place among the prompt's candidates; 0 is the teacher's greedy call."""
    correct: bool | None
    """Whether the call names the annotated labels; None where there is no annotation."""
    call_text: str


@dataclass(frozen=True)
class CacheHit:
    """What a look-up found; the mean where several rows are equally near."""

    signed: tuple[float, ...]
    """Block sums P, R, I, T, nats."""
    l1: tuple[float, ...]
    """Sums of magnitudes per block, nats."""
    kind: HitKind
    others: tuple[float, ...]
    """Mean block sums of the prompt's other rows; zeros where there is none."""


def fingerprint(weights: str, processor: str, attribution: AttributionConfig) -> str:
    """One hash for everything but the prompt that a row depends on.

    Args:
        weights: hash of the teacher's weights, :func:`hash_weights`.
        processor: hash of its processor, :func:`hash_processor`.
        attribution: settings; what bounds memory does not count.
    """
    settings = asdict(attribution)
    for name in ("tokens_per_forward", "most_tokens"):
        settings.pop(name)
    return digest(
        str(SCHEMA_VERSION).encode(),
        weights.encode(),
        processor.encode(),
        json.dumps(settings, sort_keys=True).encode(),
    )


def prompt_key(
    cache_fingerprint: str,
    input_ids: Sequence[int],
    pixel_values: Tensor | None = None,
    image_grid_thw: Tensor | None = None,
) -> str:
    """The address of a prompt's rows: a hash over values, dtypes and shapes.

    Args:
        cache_fingerprint: of the cache.
        input_ids: [L] the rendered prompt, image tokens expanded, without padding.
        pixel_values: [patches, channels] of its images; None where it has none.
        image_grid_thw: [images, 3]; None where it has none.
    """
    return digest(
        cache_fingerprint.encode(),
        ",".join(map(str, input_ids)).encode(),
        *(_tensor_bytes(tensor) for tensor in (pixel_values, image_grid_thw)),
    )


def _tensor_bytes(tensor: Tensor | None) -> bytes:
    if tensor is None:
        return b""
    header = f"{str(tensor.dtype).removeprefix('torch.')}{tuple(tensor.shape)}"
    # As bytes, since numpy has no bfloat16.
    flat = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
    return header.encode() + flat.numpy().tobytes()


def digest(*parts: bytes) -> str:
    """sha256 over length-prefixed parts, so that no two lists of parts read the same."""
    sha256 = hashlib.sha256()
    for part in parts:
        sha256.update(len(part).to_bytes(8, "big"))
        sha256.update(part)
    return sha256.hexdigest()


def hash_weights(directory: Path) -> str:
    """Hash of a pretrained directory's weights.

    Raises:
        CacheError: where there are no safetensors files.
    """
    return _hash_files(directory, "*.safetensors")


def hash_processor(directory: Path) -> str:
    """Hash of a pretrained directory's processor: tokenizer, template, image settings.

    Raises:
        CacheError: where there are no such files.
    """
    return _hash_files(directory, "*token*", "*processor*", "*template*")


def _hash_files(directory: Path, *patterns: str) -> str:
    files = sorted({path for pattern in patterns for path in directory.glob(pattern)})
    if not files:
        raise CacheError(f"{directory}: found none of {', '.join(patterns)}; expected a saved model")
    return digest(*(f"{path.name}:{sha256_file(path)}".encode() for path in files))


class TeacherCache:
    """A cache on disk, read whole (0.8 kB a prompt) and checked against its manifest."""

    def __init__(self, path: str | Path) -> None:
        """
        Args:
            path: the directory as :class:`iapo.cache_writer.CacheWriter` left it.

        Raises:
            CacheError: for a manifest that is missing, unreadable or of another schema version, or a shard
                that is missing or altered.
        """
        directory = Path(path)
        manifest = read_manifest(directory)
        self.fingerprint: str = manifest["fingerprint"]
        self.shards: dict[str, dict[str, Any]] = manifest["shards"]
        self.rows: list[CacheRow] = []
        for name, facts in self.shards.items():
            check_shard(directory / name, facts["sha256"])
            self.rows += read_shard(directory / name)
        self._by_prompt: dict[str, list[CacheRow]] = {}
        for row in self.rows:
            self._by_prompt.setdefault(row.prompt_key, []).append(row)
        self._exact: dict[tuple[str, str], CacheRow] = {}
        for row in reversed(self.rows):
            self._exact[row.prompt_key, canonical(row.call)] = row
        self._found: dict[tuple[str, ToolCall], CacheHit] = {}

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def prompts(self) -> list[str]:
        """Keys of the prompts with at least one row."""
        return list(self._by_prompt)

    def coverage(self, keys: Collection[str]) -> float:
        """Share of the prompts ``keys`` with at least one row, in [0, 1]; 1 for no prompts."""
        return sum(key in self._by_prompt for key in keys) / len(keys) if keys else 1.0

    def lookup(self, key: str, call: ToolCall) -> CacheHit | None:
        """The teacher's block sums for a call, or for the nearest call that was cached.

        Args:
            key: of the prompt.
            call: the student's.

        Returns:
            The exact call; else the same tool with the nearest labels; else the nearest row at all (another
            mode is nearer than another family, then labels decide). None where the prompt has no row.
        """
        rows = self._by_prompt.get(key)
        if not rows:
            return None
        if (key, call) not in self._found:
            self._found[key, call] = _find(call, rows, self._exact.get((key, canonical(call))))
        return self._found[key, call]

    def teacher_call(self, key: str) -> CacheHit | None:
        """The row of the call that the teacher itself makes; None where the prompt has no row."""
        rows = self._by_prompt.get(key)
        return _hit([min(rows, key=lambda row: row.rank)], rows, "exact") if rows else None

    def teacher_turn(self, key: str) -> str | None:
        """What the teacher itself says on the prompt; None where the prompt has no row."""
        rows = self._by_prompt.get(key)
        return min(rows, key=lambda row: row.rank).call_text if rows else None

    def partner(self, key: str) -> str:
        """Another prompt with as many blocks, the same one every time: the shuffled control's."""
        blocks = len(self._by_prompt[key][0].signed)
        alike = [other for other in sorted(self._by_prompt) if len(self._by_prompt[other][0].signed) == blocks]
        # Keys are hashes, so the next one in order is as good as a random one.
        return alike[(alike.index(key) + 1) % len(alike)]


def _find(call: ToolCall, rows: Sequence[CacheRow], exact: CacheRow | None) -> CacheHit:
    # The tool's name outranks the labels, so all of the nearest share the tool, or none has it.
    nearest = _nearest(call, rows) if exact is None else [exact]
    same_tool = nearest[0].call.name == call.name
    return _hit(nearest, rows, "exact" if exact else "same_tool" if same_tool else "nearest")


def _hit(found: Sequence[CacheRow], rows: Sequence[CacheRow], kind: HitKind) -> CacheHit:
    others = [row.signed for row in rows if row not in found]
    return CacheHit(
        _mean([row.signed for row in found]),
        _mean([row.l1 for row in found]),
        kind,
        _mean(others) if others else (0.0,) * len(found[0].signed),
    )


def directory_of(stats: Path) -> Path:
    """The cache that a file of :func:`cache_stats`, ``<cache>.stats.json`` beside it, is about."""
    return stats.with_name(stats.name.removesuffix(".stats.json"))


def cache_stats(directory: Path) -> dict[str, Any]:
    """What a cache holds, for people: prompts, rows by source, size, completeness."""
    cache = TeacherCache(directory)
    residuals = torch.tensor([row.residual for row in cache.rows] or [0.0], dtype=torch.float64)
    return {
        "fingerprint": cache.fingerprint,
        "prompts": len(cache.prompts),
        "rows": len(cache),
        "rows_per_prompt": len(cache) / max(1, len(cache.prompts)),
        "rows_by_source": dict(Counter(row.source for row in cache.rows)),
        "share_correct": _share([row.correct for row in cache.rows if row.correct is not None]),
        "shards": len(cache.shards),
        "bytes": sum((directory / name).stat().st_size for name in cache.shards),
        "residual_median": residuals.quantile(0.5).item(),
        "residual_p95": residuals.quantile(0.95).item(),
    }


def _share(values: Sequence[bool]) -> float | None:
    return sum(values) / len(values) if values else None


def read_manifest(directory: Path) -> dict[str, Any]:
    """A cache's manifest: ``fingerprint``, and ``shards`` with their hashes and prompts.

    Raises:
        CacheError: where it is missing, unreadable or of another schema version.
    """
    path = directory / "manifest.json"
    if not path.exists():
        raise CacheError(f"{path} not found; make the cache (rule cache_teacher)")
    again = f"delete {path.parent} and make the cache again (rule cache_teacher)"
    try:
        manifest = json.loads(path.read_text())
    except ValueError as error:
        raise CacheError(f"{path}: expected JSON, found {error}; {again}") from None
    found = manifest.get("schema_version") if isinstance(manifest, dict) else None
    if found != SCHEMA_VERSION:
        raise CacheError(f"{path}: found schema version {found}, expected {SCHEMA_VERSION}; {again}")
    return dict(manifest)


def _from_dict(fields: dict[str, Any]) -> CacheRow:
    call = ToolCall(fields.pop("tool"), tuple(fields.pop("labels")))
    del fields["canonical_call"]
    signed, l1 = tuple(fields.pop("signed")), tuple(fields.pop("l1"))
    return CacheRow(call=call, signed=signed, l1=l1, **fields)


def read_shard(path: Path) -> list[CacheRow]:
    """The rows of one file."""
    return [_from_dict(fields) for fields in pq.read_table(path).to_pylist()]


def check_shard(path: Path, expected: str) -> None:
    """Raise a :class:`CacheError` unless the file has this sha256."""
    found = sha256_file(path) if path.exists() else "no file"
    if found != expected:
        raise CacheError(
            f"{path}: expected sha256 {expected}, found {found}; make the cache again (rule cache_teacher), "
            "which replaces damaged shards and keeps the others"
        )


def _nearest(call: ToolCall, rows: Sequence[CacheRow]) -> list[CacheRow]:
    distances = [_distance(call, row.call) for row in rows]
    least = min(distances)
    return [row for row, distance in zip(rows, distances, strict=True) if distance == least]


def _distance(one: ToolCall, other: ToolCall) -> tuple[bool, bool, float]:
    """Family, then mode, then the Jaccard distance of the labels."""
    a, b = set(one.labels), set(other.labels)
    union = len(a | b)
    jaccard = 1 - len(a & b) / union if union else 0.0
    return (one.family != other.family, one.mode != other.mode, jaccard)


def _mean(sums: Sequence[tuple[float, ...]]) -> tuple[float, ...]:
    return tuple(sum(values) / len(sums) for values in zip(*sums, strict=True))
