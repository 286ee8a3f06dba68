"""Parts of the training prompts, by which several jobs make one cache, and the joining of what they made.

A part is a folder of data like the whole, so the pass runs on it as it runs on the whole, and asks nothing about parts.
The joined cache is the one that a single job makes: the same shards of the same rows, equal up to the rounding of
batches in those that students asked for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from iapo.artifacts.files import atomic_directory, sha256_file, write_json
from iapo.data.store import Manifest, write_examples
from iapo.rollout.call_sampling import SampledCall, write_calls
from iapo.teacher.build_cache import FILLED
from iapo.teacher.cache import TeacherCache
from iapo.teacher.rows import CacheError, CacheRow, Shard, read_shard
from iapo.teacher.turns import PROMPTS_TOGETHER
from iapo.teacher.writer import CacheWriter, copy_cache
from iapo.types import Example


def prompts_of_part(examples: Sequence[Example], part: int, parts: int) -> list[Example]:
    """Return a part's prompts: every ``parts``-th batch of those that the pass samples together, so each stays whole.

    Args:
        examples: the training examples.
        part: which part, from 0.
        parts: how many there are.
    """
    starts = range(part * PROMPTS_TOGETHER, len(examples), parts * PROMPTS_TOGETHER)
    return [example for start in starts for example in examples[start : start + PROMPTS_TOGETHER]]


def write_part(
    folder: Path,
    prompts: Sequence[Example],
    sets: Sequence[str],
    calls: Sequence[SampledCall],
    settings: Mapping[str, Any],
) -> None:
    """Write a part as a folder of data, and the students' calls on its prompts as ``calls.parquet``.

    Args:
        folder: to write into.
        prompts: the part's prompts.
        sets: test sets that are trained on; one without a prompt in this part has an empty file.
        calls: of all prompts.
        settings: of the data, for the part's manifest.
    """
    by_set = {name: [prompt for prompt in prompts if prompt.test_set == name] for name in sets}
    files = {f"train/{name}.parquet": examples for name, examples in by_set.items()}
    for name, examples in files.items():
        write_examples(folder / name, examples)
    asked = {prompt.example_id for prompt in prompts}
    write_calls(folder / "calls.parquet", [call for call in calls if call.example_id in asked])
    manifest: Manifest = {
        "settings": dict(settings),
        "counts": {"train": {name: len(examples) for name, examples in by_set.items()}},
        "sha256": {name: sha256_file(folder / name) for name in files},
    }
    write_json(folder / "manifest.json", manifest)


def begin_from_joined(joined: Path, part: Path) -> None:
    """Begin a part's cache with the rows of a cache that was joined before: another number of parts scores none again.

    Args:
        joined: directory of the joined cache; one that is not there or not whole gives nothing.
        part: directory of the part's cache; left as it is where it was begun.
    """
    if not (part / "manifest.json").exists():
        with contextlib.suppress(CacheError):
            TeacherCache(joined)
            copy_cache(joined, part)


def join_caches(parts: Sequence[Path], target: Path) -> None:
    """Join the caches of all parts.

    Args:
        parts: their directories, in order.
        target: directory of the joined cache; what is there is replaced.

    Raises:
        CacheError: if a part is not whole, or of another teacher, other settings or other code than the first.
    """
    caches = [TeacherCache(part) for part in parts]
    for part, cache in zip(parts, caches, strict=True):
        if cache.fingerprint != caches[0].fingerprint:
            raise CacheError(
                f"{part} holds fingerprint {cache.fingerprint[:12]}…, {parts[0]} holds {caches[0].fingerprint[:12]}…; "
                f"delete {part} and make the cache again (rule cache_teacher)"
            )
    filled: list[CacheRow] = []
    order: dict[str, int] = {}
    with atomic_directory(target) as tmp:
        writer = CacheWriter(tmp, caches[0].fingerprint)
        for path, shard in _in_turn(parts, caches):
            if shard["candidates"] == FILLED:
                filled += read_shard(path)
                continue
            writer.add(read_shard(path), prompts=shard["prompts"], candidates=shard["candidates"])
            for key in shard["prompts"]:
                order.setdefault(key, len(order))
        _add_filled(writer, filled, order)


def _in_turn(parts: Sequence[Path], caches: Sequence[TeacherCache]) -> Iterator[tuple[Path, Shard]]:
    """Each shard once, in the order in which one job writes them: the parts' first ones, then their second ones."""
    seen: set[str] = set()
    for names in zip_longest(*(cache.shards for cache in caches)):
        for part, cache, name in zip(parts, caches, names, strict=True):
            if name is not None and name not in seen:
                seen.add(name)
                yield part / name, cache.shards[name]


def _add_filled(writer: CacheWriter, rows: Sequence[CacheRow], order: Mapping[str, int]) -> None:
    """Write the students' calls as one job does, of as many prompts to a shard."""
    keys = sorted({row.prompt_key for row in rows}, key=order.__getitem__)
    for start in range(0, len(keys), PROMPTS_TOGETHER):
        together = set(keys[start : start + PROMPTS_TOGETHER])
        writer.add([row for row in rows if row.prompt_key in together], prompts=[], candidates=FILLED)
