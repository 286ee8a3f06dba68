"""Storage of examples: one parquet file per split and test set, and a manifest of counts and hashes.

Readers check the files against the manifest first, so that a run never trains on altered data.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import pyarrow as pa
import pyarrow.parquet as pq

from iapo.artifacts.files import atomic_write, sha256_file
from iapo.types import Example, Figure, Metric, Split

_SCHEMA = pa.schema(
    [
        ("example_id", pa.string()),
        ("test_set", pa.string()),
        ("split", pa.string()),
        ("figure", pa.string()),
        # The storage format of ``datasets.Image``.
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("context", pa.string()),
        ("request", pa.string()),
        ("answer", pa.string()),
        ("metric", pa.string()),
        ("focus_labels", pa.list_(pa.string())),
    ]
)


class DataError(RuntimeError):
    """Raised for a missing or altered data file; the message names the file and what to do."""


class Manifest(TypedDict):
    """Content of ``manifest.json``."""

    settings: dict[str, Any]
    """The data settings, as JSON."""
    counts: Mapping[str, Mapping[str, int]]
    """Split → test set → number of examples."""
    sha256: Mapping[str, str]
    """Path below the data directory → hash of the file."""
    raw_sha256: NotRequired[Mapping[str, str]]
    """Path below the downloaded copy of ReFocus_Data → hash of the file; absent for the mini world."""


class ImageCell(TypedDict):
    """An undecoded image, in the format of ``datasets.Image``."""

    bytes: bytes
    path: str | None


class ExampleRow(TypedDict):
    """One row of a data file: the fields of an example, its figure as JSON."""

    example_id: str
    """The question."""
    test_set: str
    """Set that it is from."""
    split: Split
    """``train``, ``dev`` or ``test``."""
    figure: str
    """JSON: the figure's id, its kind, and the box in pixels of each label that a tool may name."""
    image: ImageCell
    """The figure's image: ``bytes`` of a PNG file, and ``path``, always null."""
    context: str
    """Plain text that describes the figure (block P)."""
    request: str
    """The question's words (block R)."""
    answer: str
    """Gold answer; several are joined by ``|||``."""
    metric: Metric
    """How an answer is matched: ``exact``, ``relaxed`` or ``fact``."""
    focus_labels: list[str]
    """Annotated labels, which the right call names; empty where the data has no annotation."""


def figure_to_json(figure: Figure) -> str:
    """Return a figure as JSON text, since a parquet column cannot hold labels that differ from row to row."""
    return json.dumps(asdict(figure), ensure_ascii=False)


def figure_from_json(text: str) -> Figure:
    """Return the figure that :func:`figure_to_json` serialised."""
    fields = json.loads(text)
    boxes = {family: {label: tuple(box) for label, box in labels.items()} for family, labels in fields["boxes"].items()}
    return Figure(fields["figure_id"], fields["kind"], boxes)


def example_from_row(row: ExampleRow) -> Example:
    """Return the example of a row read by pyarrow, or by ``datasets`` with images left undecoded."""
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


def _row(example: Example) -> ExampleRow:
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
    """Write one data file atomically."""
    table = pa.Table.from_pylist([_row(example) for example in examples], schema=_SCHEMA)
    with atomic_write(path) as tmp:
        pq.write_table(table, tmp, compression="zstd")


def read_examples(*paths: Path) -> list[Example]:
    """Return the examples of one or more data files, in order."""
    return [example_from_row(row) for path in paths for row in pq.read_table(path).to_pylist()]


def read_split(root: Path, split: Split, test_sets: Iterable[str]) -> list[Example]:
    """Return the examples of a split, set by set, after verifying the manifest.

    Args:
        root: data directory.
        split: which split to read.
        test_sets: which test sets to read, in this order.

    Raises:
        DataError: as :func:`verify_manifest`.
    """
    verify_manifest(root)
    return read_examples(*(root / split / f"{test_set}.parquet" for test_set in test_sets))


def verify_manifest(root: Path) -> Manifest:
    """Check every file of a data directory against its manifest, and return the manifest.

    Raises:
        DataError: for the first missing or altered file, with the expected and the actual hash.
    """
    path = root / "manifest.json"
    if not path.exists():
        raise DataError(f"{path} not found; make the data again (snakemake … {path})")
    manifest: Manifest = json.loads(path.read_text())
    for name, expected in manifest["sha256"].items():
        file = root / name
        found = sha256_file(file) if file.exists() else "no file"
        if found != expected:
            raise DataError(
                f"{file}: expected sha256 {expected}, found {found}; delete {root} and run the same command again"
            )
    return manifest
