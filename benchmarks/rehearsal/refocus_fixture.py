"""Writer of a small stand-in for ReFocus_Data in its real layout, for the rehearsal and for tests.

Folders and file names are those on the hub, except that the names of the archives below ``images/`` other than
ChartQA's are assumptions.
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
from iapo.artifacts.files import atomic_directory
from iapo.data.mini_world.world import RAW_FILES
from iapo.data.refocus.layout import IMAGES, TEST_FOLDER, TRAINING, TRAINING_FOLDER

_ZIP_DATE = (1980, 1, 1, 0, 0, 0)
"""Date of every archive member, so that equal fixtures have equal bytes."""


def write_fixture(
    root: Path,
    *,
    seed: int = 0,
    figures_per_file: int = 12,
    questions_per_figure: int = 3,
    layout: Literal["hub", "flat"] = "hub",
    oddities: Iterable[str] = (),
) -> dict[str, int]:
    """Write the file tree of ReFocus_Data, replacing whatever is at ``root``.

    Args:
        root: output directory; the ``data/`` shards, which repeat the training archive, are not written.
        seed: seed of figures and questions.
        figures_per_file: figures of each test file, and of each chart set in the training archive.
        questions_per_figure: 1 to 3.
        layout: ``hub``, with folders and archived images; or ``flat``, an older revision, with the records at the top
            level and images as files.
        oddities: names in :data:`benchmarks.rehearsal.refocus_oddities.ODDITIES`, applied in this order.

    Returns:
        File → number of records in it.
    """
    fixture = draw_fixture(random.Random(f"refocus/{seed}"), figures_per_file, questions_per_figure)
    for name in oddities:
        ODDITIES[name](fixture)
    with atomic_directory(root) as tmp:
        records = tmp / TEST_FOLDER if layout == "hub" else tmp
        training = tmp / TRAINING_FOLDER if layout == "hub" else tmp
        records.mkdir(exist_ok=True)
        training.mkdir(exist_ok=True)
        for test_set, pairs in fixture.tests.items():
            (records / RAW_FILES[test_set]).write_text(_object(pairs), encoding="utf-8")
        _write_zip(training / TRAINING, _training_members(fixture.training))
        _write_pictures(tmp / IMAGES, fixture.pictures, zipped=layout == "hub")
    counts = {RAW_FILES[test_set]: len(pairs) for test_set, pairs in fixture.tests.items()}
    return counts | {TRAINING: len(fixture.training)}


def _training_members(records: Sequence[Record]) -> dict[str, bytes]:
    """The training file, a file of another split that readers must ignore, and one that macOS adds to archives."""
    lines = "".join(json.dumps(record) + "\n" for record in records)
    return {
        "chartqa_vcot/train.jsonl": lines.encode(),
        "chartqa_vcot/val.jsonl": json.dumps({**records[0], "id": f"val-{records[0]['id']}"}).encode(),
        "__MACOSX/chartqa_vcot/._train.jsonl": b"\x00\x05\x16\x07",
    }


def _object(pairs: Iterable[tuple[str, Record]]) -> str:
    """JSON text of an object whose keys may repeat."""
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
            archive.writestr(zipfile.ZipInfo(name, _ZIP_DATE), members[name], zipfile.ZIP_DEFLATED)
