"""The check of what a job reads: each file must have the bytes that the run record of the job that made it says.

``python -m iapo.jobs.recorded_inputs FILE...`` is the same check for a rule that runs no script.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from iapo.artifacts.file_facts import FileFacts, difference
from iapo.artifacts.run_record import RECORD_SUFFIX, RecordError, read_record

RESULTS = "results"
"""Folder below which every file that a job reads was made by a job, and so has a record."""

_TABLES = (".csv", ".md", ".parquet")
"""A table is read alone; any other input stands for all recorded files of its folder: a manifest for the data, a
cache's figures for its shards, weights for the model's tokenizer."""


class DamagedInputError(RuntimeError):
    """An input that is not as it was written; the message names it and says what to do."""


def check_inputs(inputs: Iterable[Path]) -> None:
    """Check files that a job reads, and what it reads beside them, against the run records that list them.

    A damaged one is renamed, so that Snakemake finds it missing and the same command makes it again. One whose record
    is gone may be whole, and stays. Files of the project itself have no record, and are not checked.

    Args:
        inputs: files as the rule names them.

    Raises:
        DamagedInputError: for the first file that is missing or has other bytes, or is a result without a record.
        RecordError: for a run record that is not as it was written.
    """
    for path in inputs:
        if path.name.endswith(RECORD_SUFFIX):
            read_record(path)
        elif found := _record_of(path):
            _check(path, *found)
        elif path.parts[0] == RESULTS and path.exists() and not _is_of_older_code(path):
            raise DamagedInputError(
                f"{path}: found no run record that lists it, expected {path.parent}{RECORD_SUFFIX}, "
                f"{path.with_suffix(RECORD_SUFFIX)} or another one beside it; bring the record back from a copy, or "
                f"remove {path}, and the same command makes both again"
            )


def _record_of(path: Path) -> tuple[Path, Mapping[str, FileFacts]] | None:
    """Return the record that lists a file, and all that it lists; the newest, where jobs were grouped anew."""
    for record in sorted(_records_near(path), key=lambda each: each.stat().st_mtime_ns, reverse=True):
        outputs: Mapping[str, FileFacts] = read_record(record).get("outputs", {})
        if os.path.relpath(path, record.parent) in outputs:
            return record, outputs
    return None


def _records_near(path: Path) -> list[Path]:
    beside_folder = path.parent.parent / f"{path.parent.name}{RECORD_SUFFIX}"
    return [*path.parent.glob(f"*{RECORD_SUFFIX}"), *([beside_folder] if beside_folder.exists() else [])]


def _is_of_older_code(path: Path) -> bool:
    """Whether a record near a file says nothing of outputs, as records once did."""
    return any("outputs" not in read_record(record) for record in _records_near(path))


def _check(path: Path, record: Path, outputs: Mapping[str, FileFacts]) -> None:
    own, folder = os.path.relpath(path, record.parent), os.path.relpath(path.parent, record.parent)
    read = [own] if path.suffix in _TABLES else [name for name in outputs if Path(name).is_relative_to(folder)]
    for name in read:
        if found := difference(record.parent / name, outputs[name]):
            raise DamagedInputError(f"{record.parent / name}: {found} by {record}; {_set_aside(path)}")


def _set_aside(path: Path) -> str:
    """Rename a damaged input where it is still there; return what to do as a part of a sentence."""
    aside = path.with_name(f"{path.name}.damaged")
    try:
        os.replace(path, aside)
    except FileNotFoundError:
        return "the same command makes it again"
    except OSError as error:
        return f"remove {path} ({error.strerror}), and the same command makes it again"
    return f"{path} is now {aside.name}, and the same command makes it again"


if __name__ == "__main__":
    try:
        check_inputs(map(Path, sys.argv[1:]))
    except (DamagedInputError, RecordError) as damage:
        sys.exit(f"error: {damage}")
