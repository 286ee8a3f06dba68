"""Write a small stand-in for ReFocus_Data in its true layout, so that what reads the one reads the other.

Folders and file names are the hub's; the names of the zips below ``images/`` other than ChartQA's are assumed.
"""

from __future__ import annotations

import json
import random
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

from benchmarks.rehearsal.refocus_oddities import ODDITIES
from benchmarks.rehearsal.refocus_records import Record, draw_fixture
from iapo.data.mini import RAW_FILES
from iapo.data.refocus_layout import IMAGES, TEST_FOLDER, TRAINING, TRAINING_FOLDER
from iapo.provenance import atomic_directory

_LONG_AGO = (1980, 1, 1, 0, 0, 0)
"""Of every member of a zip, so that equal fixtures are equal bytes."""


def write_fixture(
    root: Path,
    *,
    seed: int = 0,
    figures_per_file: int = 12,
    questions_per_figure: int = 3,
    layout: Literal["hub", "flat"] = "hub",
    oddities: Iterable[str] = (),
) -> dict[str, int]:
    """Write the tree of ReFocus_Data; whatever was at ``root`` is replaced.

    Args:
        root: gets the repository's files, without the ``data/`` shards that repeat the training zip.
        seed: of the figures and questions.
        figures_per_file: figures of each test file, and of each chart set in the training zip.
        questions_per_figure: 1 to 3.
        layout: ``hub`` with folders and zipped figures; ``flat``, an older revision, with the records at the top
            and loose figures.
        oddities: names in :data:`benchmarks.rehearsal.refocus_oddities.ODDITIES`, planted one after the other.

    Returns:
        File → records in it.
    """
    fixture = draw_fixture(random.Random(f"refocus/{seed}"), figures_per_file, questions_per_figure)
    for name in oddities:
        ODDITIES[name](fixture)
    with atomic_directory(root) as partial:
        records = partial / TEST_FOLDER if layout == "hub" else partial
        training = partial / TRAINING_FOLDER if layout == "hub" else partial
        records.mkdir(exist_ok=True)
        training.mkdir(exist_ok=True)
        for test_set, pairs in fixture.tests.items():
            (records / RAW_FILES[test_set]).write_text(_object(pairs), encoding="utf-8")
        _write_zip(training / TRAINING, _training_members(fixture.training))
        _write_pictures(partial / IMAGES, fixture.pictures, zipped=layout == "hub")
    counts = {RAW_FILES[test_set]: len(pairs) for test_set, pairs in fixture.tests.items()}
    return counts | {TRAINING: len(fixture.training)}


def _training_members(records: Sequence[Record]) -> dict[str, bytes]:
    """The training file, another split that is to be left alone, and what macOS leaves in its zips."""
    lines = "".join(json.dumps(record) + "\n" for record in records)
    return {
        "chartqa_vcot/train.jsonl": lines.encode(),
        "chartqa_vcot/val.jsonl": json.dumps({**records[0], "id": f"val-{records[0]['id']}"}).encode(),
        "__MACOSX/chartqa_vcot/._train.jsonl": b"\x00\x05\x16\x07",
    }


def _object(pairs: Iterable[tuple[str, Record]]) -> str:
    """JSON of an object whose keys may repeat."""
    return "{" + ",\n".join(f"{json.dumps(name)}: {json.dumps(record)}" for name, record in pairs) + "}"


def _write_pictures(folder: Path, pictures: Mapping[str, bytes], *, zipped: bool) -> None:
    folder.mkdir()
    if not zipped:
        for path, content in pictures.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        return
    for top in sorted({PurePosixPath(path).parts[0] for path in pictures}):
        _write_zip(folder / f"{top}.zip", {path: each for path, each in pictures.items() if path.startswith(f"{top}/")})


def _write_zip(path: Path, members: Mapping[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in sorted(members):
            archive.writestr(zipfile.ZipInfo(name, _LONG_AGO), members[name], zipfile.ZIP_DEFLATED)
