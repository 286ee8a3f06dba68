"""The rows of the teacher's cache, their parquet schema, and the manifest that lists a cache's shards.

A cache directory holds ``manifest.json`` and one parquet file per shard. The reader (:mod:`iapo.teacher.cache`) and the
writer (:mod:`iapo.teacher.writer`) share these definitions.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict

import pyarrow as pa
import pyarrow.parquet as pq

from iapo.artifacts.files import sha256_file
from iapo.types import ToolCall

SCHEMA_VERSION = 4
"""Version of the row format, part of every fingerprint; increase it when the meaning of a row changes."""


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
        ("convergence_delta", pa.float64()),
        ("source", pa.string()),
        ("rank", pa.int32()),
        ("correct", pa.bool_()),
        ("call_text", pa.string()),
        ("answer_text", pa.string()),
    ]
)


class CacheError(RuntimeError):
    """A cache that cannot be used; the message names the file, what was found and what to do."""


class Shard(TypedDict):
    """Manifest entry of one shard."""

    sha256: str
    """Hash of the parquet file."""
    rows: int
    """Number of rows."""
    candidates: str
    """Settings under which the calls were chosen."""
    prompts: list[str]
    """Keys of the prompts that are complete with this shard, including those without a valid call."""


class Manifest(TypedDict):
    """Content of a cache's ``manifest.json``."""

    schema_version: int
    """:data:`SCHEMA_VERSION` at the time of writing."""
    fingerprint: str
    """Fingerprint of the teacher, its settings and its code."""
    shards: dict[str, Shard]
    """File name → shard."""


@dataclass(frozen=True)
class CacheRow:
    """The teacher's attribution of one call on one prompt."""

    prompt_key: str
    """Hash of the prompt's token ids and pixels, from :func:`iapo.rollout.turns.prompt_key`."""
    call: ToolCall
    """The call; in a file its canonical JSON, its tool and its labels."""
    signed: tuple[float, ...]
    """Signed block sums in the order P, R, I, T, or in that of a finer partition, nats."""
    l1: tuple[float, ...]
    """Sums of the tokens' absolute attributions per block, nats."""
    log_p: float
    """Log-probability of the call given the prompt, nats."""
    delta_f: float
    """Log-probability of the call given the prompt minus that given the baseline input, nats."""
    convergence_delta: float
    """Completeness error, no unit."""
    source: Literal["sampled", "enumerated", "filled"]
    """Origin: sampled from the teacher, a legal variation of its greedy call, or made by a student."""
    rank: int
    """Position among the prompt's candidates; 0 is the teacher's own first call, greedy if that one is valid."""
    correct: bool | None
    """Whether the call names exactly the annotated labels; None without annotation."""
    call_text: str
    """The whole turn that was attributed."""
    answer_text: str | None = None
    """The teacher's greedy turn after the tool's answer to a call of its own; None for a call that it did not sample
    or that could not be carried out."""


def read_manifest(directory: Path) -> Manifest:
    """Read a cache's manifest.

    Args:
        directory: directory of the cache.

    Raises:
        CacheError: if the manifest is missing, unreadable or of another schema version.
    """
    path = directory / "manifest.json"
    if not path.exists():
        raise CacheError(f"{path} not found; make the cache (rule cache_teacher)")
    advice = f"delete {path.parent} and make the cache again (rule cache_teacher)"
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise CacheError(f"{path}: expected JSON, found {error}; {advice}") from None
    found = content.get("schema_version") if isinstance(content, dict) else None
    if found != SCHEMA_VERSION:
        raise CacheError(f"{path}: found schema version {found}, expected {SCHEMA_VERSION}; {advice}")
    if missing := _missing(content):
        raise CacheError(f"{path}: expected a cache's manifest, found no {missing}; {advice}")
    manifest: Manifest = content
    return manifest


def _missing(manifest: dict[str, Any]) -> str:
    """Name the first entry that a manifest does not have; empty where it has all."""
    absent = [key for key in Manifest.__annotations__ if key not in manifest]
    if absent:
        return absent[0]
    shards = manifest["shards"]
    if not isinstance(shards, dict):
        return "shards by name"
    of_shards = [
        f"{key} of {name}"
        for name, shard in shards.items()
        for key in Shard.__annotations__
        if not isinstance(shard, dict) or key not in shard
    ]
    return next(iter(of_shards), "")


def _from_dict(fields: dict[str, Any]) -> CacheRow:
    call = ToolCall(fields.pop("tool"), tuple(fields.pop("labels")))
    del fields["canonical_call"]
    signed, l1 = tuple(fields.pop("signed")), tuple(fields.pop("l1"))
    return CacheRow(call=call, signed=signed, l1=l1, **fields)


def read_shard(path: Path) -> list[CacheRow]:
    """Read the rows of one parquet file."""
    return [_from_dict(fields) for fields in pq.read_table(path).to_pylist()]


def check_shard(path: Path, expected: str) -> None:
    """Check the hash of a shard's file.

    Args:
        path: the parquet file.
        expected: its SHA-256 according to the manifest.

    Raises:
        CacheError: if the file is missing or has another hash.
    """
    found = sha256_file(path) if path.exists() else "no file"
    if found != expected:
        raise CacheError(
            f"{path}: expected sha256 {expected}, found {found}; make the cache again (rule cache_teacher), "
            "which replaces damaged shards and keeps the others"
        )
