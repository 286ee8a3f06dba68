"""The data stage: ingest the configured source and store every split with a manifest of file hashes.

The source is either the mini world, drawn here, or a downloaded copy of ReFocus_Data. Examples are written one test
set at a time, so that the images of only one set are in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

from iapo.artifacts.files import sha256_file, write_json
from iapo.config.schema import DataConfig
from iapo.data.ingest import ingest
from iapo.data.mini_world.world import write_raw
from iapo.data.refocus.reader import RefocusData
from iapo.data.splits import SPLITS
from iapo.data.store import DataError, Manifest, write_examples
from iapo.types import TEST_SETS, Example, Split


def build(config: DataConfig, root: Path, raw: Path | None = None) -> Manifest:
    """Build the dataset: draw or read the source, ingest it and store every split.

    Args:
        config: seed and counts of the mini world, or the source of ReFocus_Data.
        root: output directory. Receives ``<split>/<set>.parquet`` and ``manifest.json``; for the mini world also
            ``raw/`` (in ReFocus's layout), for ReFocus_Data also ``report.json``, which lists what was found and left
            out.
        raw: the downloaded copy of ReFocus_Data; required for that source only.

    Returns:
        The manifest, as written to ``manifest.json``.

    Raises:
        DataError: if ReFocus_Data is configured but ``raw`` is None.
        IngestError: as :func:`iapo.data.refocus.reader.read_refocus`.
    """
    if config.refocus is None:
        write_raw(config, root / "raw")
        drawn = ((split, name, each) for split in SPLITS for name, each in ingest(root / "raw", split).items())
        counts, files = _write_sets(root, drawn)
        return _write_manifest(config, root, counts, [*sorted((root / "raw").glob("*/*.json")), *files])
    if raw is None:
        raise DataError("data.refocus is set and no folder is given; expected the one that it was downloaded to")
    with RefocusData(raw, config.refocus) as data:
        # One set at a time: the largest has half a gigabyte of images.
        read = ((split, name, list(data.examples(split, name))) for split in SPLITS for name in TEST_SETS)
        counts, files = _write_sets(root, read)
        write_json(root / "report.json", data.report)
        digests = {str(path.relative_to(raw)): sha256_file(path) for path in data.raw_files()}
    return _write_manifest(config, root, counts, [root / "report.json", *files], raw_sha256=digests)


def _write_sets(
    root: Path, sets: Iterable[tuple[Split, str, list[Example]]]
) -> tuple[dict[str, dict[str, int]], list[Path]]:
    """Write one file per set; return split → set → number of examples, and the paths."""
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
    config: DataConfig,
    root: Path,
    counts: Mapping[str, Mapping[str, int]],
    files: Iterable[Path],
    raw_sha256: Mapping[str, str] | None = None,
) -> Manifest:
    digests = {str(path.relative_to(root)): sha256_file(path) for path in files}
    manifest: Manifest = {"settings": asdict(config), "counts": counts, "sha256": digests}
    if raw_sha256 is not None:
        manifest["raw_sha256"] = raw_sha256
    write_json(root / "manifest.json", manifest)
    return manifest
