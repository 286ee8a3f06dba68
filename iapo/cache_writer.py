"""Writes the teacher's cache: shards first, each under a temporary name and renamed, the manifest after each.

A killed pass goes on where it stopped, more prompts or candidates add shards and touch none, and a damaged
shard is dropped, so that only its prompts are computed again. One process writes; any number may read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from iapo.provenance import atomic_write, sha256_file, write_json
from iapo.teacher_cache import (
    SCHEMA,
    SCHEMA_VERSION,
    CacheError,
    CacheRow,
    check_shard,
    digest,
    read_manifest,
    read_shard,
)
from iapo.tools import canonical


class CacheWriter:
    """Adds shards to the cache of one teacher under one set of attribution settings."""

    def __init__(self, directory: Path, fingerprint: str) -> None:
        """
        Args:
            directory: of the cache, empty or not.
            fingerprint: of the teacher and the settings.

        Raises:
            CacheError: when the directory holds another teacher's cache.
        """
        self._directory = directory
        self._fingerprint = fingerprint
        self._shards: dict[str, dict[str, Any]] = {}
        self._known: set[tuple[str, str]] = set()
        self.damaged: list[str] = []
        """What was wrong with each shard that was dropped."""
        if (directory / "manifest.json").exists():
            self._open(read_manifest(directory))
        self._write_manifest()

    def _open(self, manifest: dict[str, Any]) -> None:
        found = manifest["fingerprint"]
        if found != self._fingerprint:
            raise CacheError(
                f"{self._directory} holds fingerprint {found[:12]}…, the teacher's is {self._fingerprint[:12]}…; "
                "delete the directory or write elsewhere"
            )
        for name, facts in manifest["shards"].items():
            path = self._directory / name
            try:
                check_shard(path, facts["sha256"])
            except CacheError as error:
                self.damaged.append(str(error))
                path.unlink(missing_ok=True)
                continue
            self._shards[name] = facts
            self._known |= {(row.prompt_key, canonical(row.call)) for row in read_shard(path)}

    def finished(self, candidates: str) -> set[str]:
        """Keys of the prompts whose candidates were attributed under these candidate settings."""
        return {key for facts in self._shards.values() if facts["candidates"] == candidates for key in facts["prompts"]}

    def holds(self, key: str, call: str) -> bool:
        """Whether there is a row for this canonical call."""
        return (key, call) in self._known

    def add(self, rows: Iterable[CacheRow], *, prompts: Sequence[str], candidates: str) -> None:
        """Write one shard; a row that the cache already holds is left out.

        Args:
            rows: new rows.
            prompts: keys of the prompts that are finished with them, those without a valid call too.
            candidates: settings that the calls were chosen under.
        """
        fresh = {
            (row.prompt_key, canonical(row.call)): row
            for row in rows
            if not self.holds(row.prompt_key, canonical(row.call))
        }
        ordered = [fresh[key] for key in sorted(fresh)]
        identity = digest(
            candidates.encode(), *(f"{key}{call}".encode() for key, call in sorted(fresh)), *map(str.encode, prompts)
        )
        name = f"{identity[:16]}.parquet"
        with atomic_write(self._directory / name) as partial:
            table = pa.Table.from_pylist([_to_dict(row) for row in ordered], schema=SCHEMA)
            pq.write_table(table, partial, compression="zstd")
        self._shards[name] = {
            "sha256": sha256_file(self._directory / name),
            "rows": len(ordered),
            "candidates": candidates,
            "prompts": list(prompts),
        }
        self._known |= set(fresh)
        self._write_manifest()

    def _write_manifest(self) -> None:
        manifest = {"schema_version": SCHEMA_VERSION, "fingerprint": self._fingerprint, "shards": self._shards}
        write_json(self._directory / "manifest.json", manifest)


def _to_dict(row: CacheRow) -> dict[str, Any]:
    return {
        **{name: value for name, value in asdict(row).items() if name != "call"},
        "canonical_call": canonical(row.call),
        "tool": row.call.name,
        "labels": list(row.call.labels),
    }
