"""Each kind of artefact, damaged in place: what is damaged, how, and what reads it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Damage:
    """One kind of damage."""

    name: str
    pattern: str
    """Of the file, below the results; the first is taken."""
    do: Callable[[Path], None]
    again: tuple[str, ...]
    """What is removed, so that the file is read again."""
    mend: str | None = None
    """What the message says to remove, where it is not the file itself."""


def flip_bit(path: Path) -> None:
    """Change one bit in the middle of a file, as a bad disk does."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    """Keep the first half of a file."""
    os.truncate(path, path.stat().st_size // 2)


def drop_last_line(path: Path) -> None:
    """Remove a table's last row."""
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def drop_last_shard(path: Path) -> None:
    """Remove the last entry of each list or mapping of several that a manifest has."""
    manifest = json.loads(path.read_text())
    for value in manifest.values():
        if isinstance(value, dict) and len(value) > 1:
            value.popitem()
        elif isinstance(value, list) and len(value) > 1:
            value.pop()
    path.write_text(json.dumps(manifest))


def empty_digests(path: Path) -> None:
    """Empty every digest of a manifest."""
    path.write_text(json.dumps(_without_digests(json.loads(path.read_text()))))


def _without_digests(value: object) -> object:
    if isinstance(value, dict):
        return {name: _without_digests(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_without_digests(each) for each in value]
    is_digest = isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")
    return "" if is_digest else value


def damage(path: Path, do: Callable[[Path], None]) -> None:
    """Damage a file and keep its time, as a disk would."""
    before = path.stat()
    do(path)
    if path.exists():
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _made(method: str) -> tuple[str, ...]:
    """What a training has made besides the folder that it resumes from."""
    return tuple(f"train/{method}/seed*/{name}" for name in ("model", "model.run.json", "metrics.csv"))


def _trained(method: str) -> tuple[str, ...]:
    """The same, and the policy that it keeps there: only the checkpoints are left."""
    return (*_made(method), f"train/{method}/seed*/work/finished")


DAMAGES = (
    Damage("model: a bit", "train/iapo/seed0/model/model.safetensors", flip_bit, ("eval/iapo",)),
    Damage("model: half", "train/trm/seed0/model/model.safetensors", truncate, ("eval/trm",)),
    Damage("cache: a bit of a shard", "teacher/start0/cache/main/*.parquet", flip_bit, ("train/iapo",)),
    Damage("cache: a shard gone", "teacher/start0/cache/main/*.parquet", Path.unlink, ("train/iapo",)),
    Damage("cache: a bit of a manifest", "teacher/start0/cache/main/manifest.json", flip_bit, ("train/iapo",)),
    Damage("cache: a manifest without", "teacher/start0/cache/main/manifest.json", drop_last_shard, ("train/iapo",)),
    Damage("data: a manifest's digests", "data/manifest.json", empty_digests, ("eval/vtool_r1",)),
    Damage("data: a bit of questions", "data/test/*.parquet", flip_bit, ("eval/vtool_r1",)),
    Damage("metrics: a row gone", "train/vtool_r1/seed0/metrics.csv", drop_last_line, ("tables",)),
    Damage("tuning: half", "tuning/iapo.json", truncate, ("train/iapo",)),
    Damage("identity: half", "train/trm/seed0/work/identity.json", truncate, _trained("trm")),
    Damage("checkpoint: half", "train/trm/seed0/work/checkpoints/*/optimizer.pt", truncate, _trained("trm")),
    Damage("kept rollouts: a bit", "train/trm/seed0/work/rollouts/*.parquet", flip_bit, ("view_training.html",)),
    Damage("kept rollouts: half", "train/iapo/seed0/work/rollouts/*.parquet", truncate, ("view_training.html",)),
    Damage("policy kept by its run: a bit", "train/trm/seed0/work/finished/model.safetensors", flip_bit, _made("trm")),
    Damage("record of a run: half", "train/vtool_r1/seed0/model.run.json", truncate, ("tables",)),
    Damage(
        "record of answers: gone",
        "eval/trm/seed0/records.run.json",
        Path.unlink,
        ("tables",),
        mend="eval/trm/seed0/records.parquet",
    ),
    Damage("records of answers: a bit", "eval/vtool_r1/seed0/records.parquet", flip_bit, ("tables",)),
)
