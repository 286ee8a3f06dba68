"""Examples on disk: one parquet file per split and set, and a manifest of counts and hashes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from iapo.config import DataConfig
from iapo.data.ingest import ingest
from iapo.data.mini import write_raw
from iapo.data.refocus import RefocusData
from iapo.data.splits import SPLITS
from iapo.provenance import atomic_write, sha256_file, write_json
from iapo.types import TEST_SETS, Example, Figure, Split

_SCHEMA = pa.schema(
    [
        ("example_id", pa.string()),
        ("test_set", pa.string()),
        ("split", pa.string()),
        ("figure", pa.string()),
        # The form that ``datasets.Image`` stores and reads.
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("context", pa.string()),
        ("request", pa.string()),
        ("answer", pa.string()),
        ("metric", pa.string()),
        ("focus_labels", pa.list_(pa.string())),
    ]
)


class DataError(RuntimeError):
    """A data file is missing or altered; the message says which and what to do."""


def figure_to_json(figure: Figure) -> str:
    """A figure as text, since its labels differ from row to row."""
    return json.dumps(asdict(figure), ensure_ascii=False)


def figure_from_json(text: str) -> Figure:
    """The figure that :func:`figure_to_json` wrote."""
    fields = json.loads(text)
    boxes = {family: {label: tuple(box) for label, box in labels.items()} for family, labels in fields["boxes"].items()}
    return Figure(fields["figure_id"], fields["kind"], boxes)


def example_from_row(row: Mapping[str, Any]) -> Example:
    """An example from a row of its file, as pyarrow or ``datasets`` (images undecoded) gives it."""
    return Example(
        example_id=row["example_id"],
        test_set=row["test_set"],
        split=row["split"],
        figure=figure_from_json(row["figure"]),
        image_png=row["image"]["bytes"],
        context=row["context"],
        request=row["request"],
        answer=row["answer"],
        metric=row["metric"],
        focus_labels=tuple(row["focus_labels"]),
    )


def _row(example: Example) -> dict[str, Any]:
    return {
        "example_id": example.example_id,
        "test_set": example.test_set,
        "split": example.split,
        "figure": figure_to_json(example.figure),
        "image": {"bytes": example.image_png, "path": None},
        "context": example.context,
        "request": example.request,
        "answer": example.answer,
        "metric": example.metric,
        "focus_labels": list(example.focus_labels),
    }


def write_examples(path: Path, examples: Iterable[Example]) -> None:
    """Write one file, whole or not at all."""
    table = pa.Table.from_pylist([_row(example) for example in examples], schema=_SCHEMA)
    with atomic_write(path) as partial:
        pq.write_table(table, partial, compression="zstd")


def read_examples(*paths: Path) -> list[Example]:
    """The examples of some files, in order."""
    return [example_from_row(row) for path in paths for row in pq.read_table(path).to_pylist()]


def read_split(root: Path, split: Split, test_sets: Iterable[str]) -> list[Example]:
    """The examples of a split, set by set, after checking the files against the manifest."""
    verify_manifest(root)
    return read_examples(*(root / split / f"{test_set}.parquet" for test_set in test_sets))


def build(config: DataConfig, root: Path, raw: Path | None = None) -> dict[str, Any]:
    """Draw or read, ingest and store every split.

    Args:
        config: seed and counts of the mini world, or where ReFocus_Data is from.
        root: gets ``<split>/<set>.parquet`` and ``manifest.json``; for the mini world ``raw/`` (ReFocus's layout),
            for ReFocus_Data ``report.json`` with what was found and left out.
        raw: the downloaded folder, for ReFocus_Data.

    Returns:
        The manifest: settings, counts, sha256 of every file below ``root``, and of every raw file that was read.

    Raises:
        DataError: where ReFocus_Data is asked for and no folder is given.
        IngestError: as :func:`iapo.data.refocus.read_refocus`.
    """
    if config.refocus is None:
        write_raw(config, root / "raw")
        drawn = ((split, name, each) for split in SPLITS for name, each in ingest(root / "raw", split).items())
        counts, files = _write_sets(root, drawn)
        return _write_manifest(config, root, counts, [*sorted((root / "raw").glob("*/*.json")), *files])
    if raw is None:
        raise DataError("data.refocus is set and no folder is given; expected the one that it was downloaded to")
    with RefocusData(raw, config.refocus) as data:
        # Set by set, since the largest has half a gigabyte of pictures.
        read = ((split, name, list(data.examples(split, name))) for split in SPLITS for name in TEST_SETS)
        counts, files = _write_sets(root, read)
        write_json(root / "report.json", data.report)
        digests = {str(path.relative_to(raw)): sha256_file(path) for path in data.raw_files()}
    return _write_manifest(config, root, counts, [root / "report.json", *files], raw_sha256=digests)


def _write_sets(
    root: Path, sets: Iterable[tuple[Split, str, list[Example]]]
) -> tuple[dict[str, dict[str, int]], list[Path]]:
    """Write one file a set; returns split → set → count, and the files."""
    counts: dict[str, dict[str, int]] = {}
    files = []
    for split, test_set, examples in sets:
        path = root / split / f"{test_set}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_examples(path, examples)
        counts.setdefault(split, {})[test_set] = len(examples)
        files.append(path)
    return counts, files


def _write_manifest(
    config: DataConfig, root: Path, counts: Mapping[str, Any], files: Iterable[Path], **facts: Any
) -> dict[str, Any]:
    digests = {str(path.relative_to(root)): sha256_file(path) for path in files}
    manifest = {"settings": asdict(config), "counts": counts, "sha256": digests, **facts}
    write_json(root / "manifest.json", manifest)
    return manifest


def verify_manifest(root: Path) -> dict[str, Any]:
    """Check every file against the manifest.

    Raises:
        DataError: naming the first missing or altered file, the hash expected and the one found.
    """
    path = root / "manifest.json"
    if not path.exists():
        raise DataError(f"{path} not found; make the data again (snakemake … {path})")
    manifest: dict[str, Any] = json.loads(path.read_text())
    for name, expected in manifest["sha256"].items():
        file = root / name
        found = sha256_file(file) if file.exists() else "no file"
        if found != expected:
            raise DataError(
                f"{file}: expected sha256 {expected}, found {found}; delete {root} and run the same command again"
            )
    return manifest
