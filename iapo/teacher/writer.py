"""Writer of the teacher's cache: atomic shards, and a manifest that is updated after each.

A killed pass resumes where it stopped. More prompts or candidates add shards and leave the existing ones unchanged;
the calls of other students replace those of earlier ones. A damaged shard is dropped, so only its prompts are computed
again. One process may write while any number read.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from iapo.artifacts.files import atomic_directory, atomic_write, digest, sha256_file, write_json
from iapo.teacher.rows import (
    SCHEMA,
    SCHEMA_VERSION,
    CacheError,
    CacheRow,
    Manifest,
    Shard,
    check_shard,
    read_manifest,
    read_shard,
)
from iapo.tools.parsing import canonical


class CacheWriter:
    """Writer that adds shards to the cache of one teacher under one set of attribution settings."""

    def __init__(self, directory: Path, fingerprint: str) -> None:
        """
        Args:
            directory: directory of the cache, empty or not.
            fingerprint: fingerprint of the teacher and the settings.

        Raises:
            CacheError: if the directory holds a cache with another fingerprint.
        """
        self._directory = directory
        self._fingerprint = fingerprint
        self._shards: dict[str, Shard] = {}
        self._known: set[tuple[str, str]] = set()
        self.damaged: list[str] = []
        """Why each damaged shard was dropped."""
        if (directory / "manifest.json").exists():
            self._open(read_manifest(directory))
        self._write_manifest()

    def _open(self, manifest: Manifest) -> None:
        """Take over the intact shards of an existing cache and delete the damaged ones."""
        found = manifest["fingerprint"]
        if found != self._fingerprint:
            raise CacheError(
                f"{self._directory} holds fingerprint {found[:12]}…, the teacher's is {self._fingerprint[:12]}…; "
                "delete the directory or write elsewhere"
            )
        for name, shard in manifest["shards"].items():
            path = self._directory / name
            try:
                check_shard(path, shard["sha256"])
            except CacheError as error:
                self.damaged.append(str(error))
                path.unlink(missing_ok=True)
                continue
            self._shards[name] = shard
            self._known |= {(row.prompt_key, canonical(row.call)) for row in read_shard(path)}

    def finished(self, candidates: str) -> set[str]:
        """Return the keys of the prompts that are complete under these candidate settings."""
        return {key for shard in self._shards.values() if shard["candidates"] == candidates for key in shard["prompts"]}

    def holds(self, key: str, call: str) -> bool:
        """Return whether the cache has a row for this prompt key and canonical call."""
        return (key, call) in self._known

    def add(self, rows: Iterable[CacheRow], *, prompts: Sequence[str], candidates: str) -> None:
        """Write one shard, without rows that the cache already holds.

        Args:
            rows: new rows.
            prompts: keys of the prompts that are complete with these rows, including those without a valid call.
            candidates: settings under which the calls were chosen.
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
        with atomic_write(self._directory / name) as tmp:
            table = pa.Table.from_pylist([_to_dict(row) for row in ordered], schema=SCHEMA)
            pq.write_table(table, tmp, compression="zstd")
        self._shards[name] = {
            "sha256": sha256_file(self._directory / name),
            "rows": len(ordered),
            "candidates": candidates,
            "prompts": list(prompts),
        }
        self._known |= set(fresh)
        self._write_manifest()

    def drop_outdated(self, candidates: str, is_outdated: Callable[[CacheRow], bool]) -> bool:
        """Drop all shards under some candidate settings if one of their rows is outdated.

        All, since the others would be computed in other batches without it: a cache must not depend on earlier ones.

        Args:
            candidates: settings under which the calls were chosen.
            is_outdated: whether nobody asks for a row any more.

        Returns:
            Whether there was such a row.
        """
        names = [name for name, shard in self._shards.items() if shard["candidates"] == candidates]
        rows = [row for name in names for row in read_shard(self._directory / name)]
        if not any(map(is_outdated, rows)):
            return False
        self._known -= {(row.prompt_key, canonical(row.call)) for row in rows}
        self._shards = {name: shard for name, shard in self._shards.items() if name not in names}
        self._write_manifest()
        for name in names:
            (self._directory / name).unlink()
        return True

    def _write_manifest(self) -> None:
        manifest: Manifest = {
            "schema_version": SCHEMA_VERSION,
            "fingerprint": self._fingerprint,
            "shards": self._shards,
        }
        write_json(self._directory / "manifest.json", manifest)


def _to_dict(row: CacheRow) -> dict[str, object]:
    return {
        **{name: value for name, value in asdict(row).items() if name != "call"},
        "canonical_call": canonical(row.call),
        "tool": row.call.name,
        "labels": list(row.call.labels),
    }


def copy_cache(source: Path, target: Path) -> None:
    """Create a cache with the shards of another one.

    A target that already holds these shards whole, from an interrupted fill, is kept with whatever was added to it.

    Args:
        source: directory of the cache to copy.
        target: directory of the new cache; anything else in it is replaced.
    """
    wanted = read_manifest(source)
    with contextlib.suppress(CacheError):
        found = read_manifest(target)
        if found["fingerprint"] == wanted["fingerprint"] and wanted["shards"].items() <= found["shards"].items():
            for name, shard in wanted["shards"].items():
                check_shard(target / name, shard["sha256"])
            return
    with atomic_directory(target) as tmp:
        for name in (*wanted["shards"], "manifest.json"):
            shutil.copyfile(source / name, tmp / name)
