"""The teacher's attribution per prompt and candidate call: written offline, read in training.

Rows are addressed by content: a prompt's key covers the teacher's weights, the processor, the attribution
settings, the prompt's token ids and its pixels, never the student. Raw block sums are stored, so another
divergence or smoothing needs no new pass. Parquet shards are written under a temporary name and renamed;
the manifest, written last, names them with their hashes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from iapo.config import AttributionConfig
from iapo.provenance import atomic_write, sha256_file
from iapo.tools import canonical
from iapo.types import ToolCall

SCHEMA_VERSION = 1
"""Part of every fingerprint; raise it when the meaning of a row changes."""

_BLOCKS = pa.list_(pa.float64(), 4)
_SCHEMA = pa.schema(
    [
        ("prompt_key", pa.string()),
        ("canonical_call", pa.string()),
        ("tool", pa.string()),
        ("labels", pa.list_(pa.string())),
        ("signed", _BLOCKS),
        ("l1", _BLOCKS),
        ("delta_f", pa.float64()),
        ("residual", pa.float64()),
        ("source", pa.string()),
        ("correct", pa.bool_()),
        ("call_text", pa.string()),
    ]
)


class CacheError(RuntimeError):
    """The cache cannot be used; the message names the file, what was found and what to do."""


@dataclass(frozen=True)
class CacheRow:
    """The teacher's attribution of one call on one prompt."""

    prompt_key: str
    call: ToolCall
    signed: tuple[float, ...]
    """Block sums P, R, I, T, nats."""
    l1: tuple[float, ...]
    """Sums of magnitudes per block, nats."""
    delta_f: float
    """Log-probability of the call on the prompt minus on the baseline, nats."""
    residual: float
    """Completeness error, no unit."""
    source: Literal["sampled", "enumerated", "filled"]
    """Sampled from the teacher, one of the legal tools with its labels, or added for a missed look-up."""
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
    kind: Literal["exact", "same_tool", "nearest"]


def fingerprint(weights: str, processor: str, attribution: AttributionConfig) -> str:
    """One hash for everything but the prompt that a row depends on.

    Args:
        weights: hash of the teacher's weights, :func:`hash_weights`.
        processor: hash of its processor, :func:`hash_processor`.
        attribution: settings; how many rows share a forward pass does not count.
    """
    settings = asdict(attribution)
    settings.pop("rows_per_forward")
    return _digest(
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
    return _digest(
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


def _digest(*parts: bytes) -> str:
    """sha256 over length-prefixed parts, so that no two lists of parts read the same."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()


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
    return _digest(*(f"{path.name}:{sha256_file(path)}".encode() for path in files))


def write_cache(
    directory: Path, cache_fingerprint: str, rows: Iterable[CacheRow], *, shard_rows: int = 4096
) -> dict[str, Any]:
    """Write a cache, or add rows to one with the same fingerprint, whose shards stay as they are.

    Args:
        directory: of the cache.
        cache_fingerprint: of the teacher and the settings.
        rows: new rows; one that the cache already holds is left out.
        shard_rows: most rows in one file.

    Returns:
        The manifest.

    Raises:
        CacheError: when the directory holds another teacher's cache.
    """
    shards: dict[str, dict[str, Any]] = {}
    known: set[tuple[str, str]] = set()
    if (directory / "manifest.json").exists():
        cache = TeacherCache(directory)
        if cache.fingerprint != cache_fingerprint:
            raise CacheError(
                f"{directory} holds fingerprint {cache.fingerprint[:12]}…, the teacher's is "
                f"{cache_fingerprint[:12]}…; delete the directory or write elsewhere"
            )
        shards = cache.shards
        known = {(row.prompt_key, canonical(row.call)) for row in cache.rows}
    fresh = {
        (row.prompt_key, canonical(row.call)): row for row in rows if (row.prompt_key, canonical(row.call)) not in known
    }
    ordered = [fresh[key] for key in sorted(fresh)]
    for start in range(0, len(ordered), shard_rows):
        name, facts = _write_shard(directory, ordered[start : start + shard_rows])
        shards[name] = facts
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "fingerprint": cache_fingerprint,
        "shards": shards,
    }
    with atomic_write(directory / "manifest.json") as partial:
        partial.write_text(json.dumps(manifest, indent=1) + "\n")
    return manifest


def _write_shard(directory: Path, rows: Sequence[CacheRow]) -> tuple[str, dict[str, Any]]:
    first, last = rows[0].prompt_key, rows[-1].prompt_key
    identity = _digest(*(f"{row.prompt_key}{canonical(row.call)}".encode() for row in rows))
    name = f"{first[:8]}-{last[:8]}-{identity[:8]}.parquet"
    with atomic_write(directory / name) as partial:
        table = pa.Table.from_pylist([_to_dict(row) for row in rows], schema=_SCHEMA)
        pq.write_table(table, partial, compression="zstd")
    return name, {"sha256": sha256_file(directory / name), "rows": len(rows)}


def _to_dict(row: CacheRow) -> dict[str, Any]:
    fields = {name: getattr(row, name) for name in _SCHEMA.names if hasattr(row, name)}
    return {
        **fields,
        "canonical_call": canonical(row.call),
        "tool": row.call.name,
        "labels": list(row.call.labels),
    }


def _from_dict(fields: dict[str, Any]) -> CacheRow:
    call = ToolCall(fields.pop("tool"), tuple(fields.pop("labels")))
    del fields["canonical_call"]
    signed, l1 = tuple(fields.pop("signed")), tuple(fields.pop("l1"))
    return CacheRow(call=call, signed=signed, l1=l1, **fields)


class TeacherCache:
    """A cache on disk, read whole (0.8 kB a prompt) and checked against its manifest."""

    def __init__(self, path: str | Path) -> None:
        """
        Args:
            path: the directory as :func:`write_cache` left it.

        Raises:
            CacheError: for a manifest that is missing, unreadable or of another schema version, or a shard
                that is missing or altered.
        """
        directory = Path(path)
        manifest = _read_manifest(directory / "manifest.json")
        self.fingerprint: str = manifest["fingerprint"]
        self.shards: dict[str, dict[str, Any]] = manifest["shards"]
        self.rows: list[CacheRow] = []
        for name, facts in self.shards.items():
            _check_shard(directory / name, facts["sha256"])
            self.rows += map(_from_dict, pq.read_table(directory / name).to_pylist())
        self._by_prompt: dict[str, list[CacheRow]] = {}
        for row in self.rows:
            self._by_prompt.setdefault(row.prompt_key, []).append(row)

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
        wanted = canonical(call)
        exact = [row for row in rows if canonical(row.call) == wanted]
        if exact:
            return CacheHit(exact[0].signed, exact[0].l1, "exact")
        # The tool's name outranks the labels, so all of the nearest share the tool, or none has it.
        nearest = _nearest(call, rows)
        return CacheHit(
            _mean([row.signed for row in nearest]),
            _mean([row.l1 for row in nearest]),
            "same_tool" if nearest[0].call.name == call.name else "nearest",
        )


def _read_manifest(path: Path) -> dict[str, Any]:
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


def _check_shard(path: Path, expected: str) -> None:
    found = sha256_file(path) if path.exists() else "no file"
    if found != expected:
        raise CacheError(
            f"{path}: expected sha256 {expected}, found {found}; delete {path.parent} and make the cache "
            "again (rule cache_teacher)"
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
