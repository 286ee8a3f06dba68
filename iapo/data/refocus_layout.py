"""Where ReFocus_Data keeps its records and figures, and how each file writes them.

Known of the hub's tree: the folder of the test files has a name that ends with a space, the training records are a
zip of JSON lines, and figures are zips below ``images/`` whose members begin where the record's path ends up after a
folder or two. An older revision has all of it at the top. Unpacked figures are found as well.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from iapo.data.ingest import KIND, NOUN
from iapo.data.mini import RAW_FILES
from iapo.data.records import IngestError, Record

TEST_FOLDER = "test_data_with_bounding_box "
"""As on the hub, with the space at its end; copies made by other tools lose it."""
TRAINING = "train_chartqa_vcot.zip"
"""Training records of the two chart sets."""
TRAINING_FOLDER = "train_raw_data"
IMAGES = "images"
_SUFFIXES = (".png", ".jpg", ".jpeg")
_NOT_TRAINING = ("val", "dev", "test")
"""Stems of the zip's files that hold other splits: ChartQA's own, which we leave alone."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_KNOWN: Mapping[str, frozenset[str]] = {
    "chart": _words(
        "query answer figure_path annotation_path table_path figure_path_wCR figure_bbox x_values y_values x_bboxes "
        "y_bboxes x_intervals y_intervals"
    ),
    "table": _words(
        "figure_id query prompt answer figure_path figure_path_wCR text_html_table column_headers row_starters "
        "columns_bbox rows_bbox table_bbox"
    ),
    "figure": _words("prompt answer figure_path"),
    "training": _words(
        "id source split query question answer x_values y_values x_values_bbox y_values_bbox figure_bbox focus_areas "
        "focus_areas_bbox conversations image edited_image thoughts"
    ),
}
"""Fields that some release is known to have; others are reported and not read."""


@dataclass(frozen=True)
class RawRecord:
    """One record as :func:`iapo.data.ingest.read_record` takes it."""

    test_set: str
    record: Record
    unknown_fields: tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """The files of one copy of ReFocus_Data."""

    name: Literal["hub", "flat"]
    test_files: Mapping[str, Path]
    """Test set → its records."""
    training: Path
    """The zip of the training records."""
    images: Path
    """Folder of the figures and their zips."""


def find_layout(root: Path) -> Layout:
    """Which layout a folder has.

    Raises:
        IngestError: naming every file that is missing.
    """
    folders = [root / TEST_FOLDER, root / TEST_FOLDER.strip()]
    folder = next((each for each in folders if each.is_dir()), None)
    where = root if folder is None else folder
    training = root / TRAINING if folder is None else root / TRAINING_FOLDER / TRAINING
    images = root / IMAGES if (root / IMAGES).is_dir() else root
    test_files = {test_set: where / name for test_set, name in RAW_FILES.items()}
    missing = [str(path) for path in [*test_files.values(), training] if not path.is_file()]
    if missing:
        raise IngestError(
            f"{root}: not found: {', '.join(missing)}; expected the files of ReFocus_Data, either below "
            f"{TEST_FOLDER!r}, {TRAINING_FOLDER!r} and {IMAGES!r} or all at the top; download it again"
        )
    return Layout("flat" if folder is None else "hub", test_files, training, images)


def read_test_file(path: Path, test_set: str) -> Iterator[RawRecord]:
    """The records of one test file: an object keyed by id, in which a key may stand twice."""
    for name, fields in _parsed(path, path.read_text(encoding="utf-8")).pairs:
        if not isinstance(fields, dict):
            raise IngestError(f"{path}, record {name!r}: found {type(fields).__name__}; expected an object")
        noun = NOUN[KIND[test_set]]
        record = Record(path, name, _without_header(fields) if noun == "table" else fields)
        yield RawRecord(test_set, record, tuple(sorted(fields.keys() - _KNOWN[noun])))


def _without_header(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A table's first row is its header, which ReFocus's tools never mask and nobody has to name."""
    rows = {name: fields[name][1:] for name in ("row_starters", "rows_bbox") if isinstance(fields.get(name), list)}
    return {**fields, **rows}


def read_training(path: Path) -> Iterator[RawRecord]:
    """The training records of the zip, read member by member without unpacking it."""
    with open_zip(path) as archive:
        for member in sorted(archive.namelist()):
            name = PurePosixPath(member)
            if name.suffix == ".jsonl" and name.stem not in _NOT_TRAINING and not _is_clutter(name.parts):
                with archive.open(member) as lines:
                    yield from _training_lines(path / member, io.TextIOWrapper(lines, encoding="utf-8"))


def _training_lines(path: Path, lines: io.TextIOWrapper) -> Iterator[RawRecord]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            fields = _parsed(path, line, number)
            record = Record(path, str(fields.get("id", f"line {number}")), fields)
            test_set = str(record["source"]).removeprefix("chartqa_")
            if NOUN.get(KIND.get(test_set, "table")) != "chart":
                raise IngestError(f"{record.where}: source is {record['source']!r}; expected h_bar or v_bar")
            known = Record(path, record.name, chart_fields(record) | {"figure_path": _path(record)})
            yield RawRecord(test_set, known, tuple(sorted(fields.keys() - _KNOWN["training"])))


def chart_fields(record: Record) -> dict[str, Any]:
    """A chart's record in the training data's words, in those of the test files.

    ReFocus's first release says ``query`` and keys boxes by label; later ones say ``question`` and list labels and
    boxes, as VTool-R1's parquet does.
    """
    fields = {"query": first(record, "query", "question"), "answer": record["answer"]}
    for axis in ("x", "y"):
        boxes = record[f"{axis}_values_bbox"]
        fields[f"{axis}_bboxes"] = boxes
        fields[f"{axis}_values"] = record.fields.get(f"{axis}_values", list(boxes))
    return fields | {"focus_areas": record.fields.get("focus_areas", record.fields.get("focus_areas_bbox"))}


def first(record: Record, *names: str) -> Any:
    """The first of these fields that the record has."""
    found = next((name for name in names if name in record.fields), None)
    if found is None:
        raise IngestError(f"{record.where}: found {sorted(record.fields)}; expected one of {', '.join(names)}")
    return record[found]


def _path(record: Record) -> str:
    if "image" in record.fields:
        return str(record["image"])
    try:
        return str(record["conversations"][0]["images"][0])
    except (KeyError, IndexError, TypeError):
        raise IngestError(f"{record.where}: no figure; expected image, or images in the first conversation") from None


class _Object(dict[str, Any]):
    """A JSON object that remembers keys that stand twice."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.pairs = pairs


def _parsed(path: Path, text: str, line: int = 1) -> _Object:
    try:
        value = json.loads(text, object_pairs_hook=_Object)
    except ValueError as error:
        raise IngestError(f"{path}, line {line}: not JSON ({error}); download the file again") from None
    if not isinstance(value, _Object):
        raise IngestError(f"{path}, line {line}: found {type(value).__name__}; expected an object")
    return value


def open_zip(path: Path) -> zipfile.ZipFile:
    """A zip none of whose members would leave the folder that it is unpacked in."""
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise IngestError(f"{path}: not a whole zip ({error}); delete it and download it again") from None
    for name in archive.namelist():
        parts = PurePosixPath(name.replace("\\", "/")).parts
        if "/" in parts or ".." in parts:
            archive.close()
            raise IngestError(f"{path}: found the member {name!r}, which leaves the folder; do not unpack this file")
    return archive


def _is_clutter(parts: Sequence[str]) -> bool:
    """Hidden files, and what macOS adds to its zips."""
    return any(part.startswith((".", "__MACOSX")) for part in parts)


@dataclass(frozen=True)
class Picture:
    """Where a figure is."""

    file: Path
    """It, or the zip that it is in."""
    member: str | None


class Pictures:
    """All figures of a copy, found by the ends of their paths: records write other beginnings than the zips."""

    def __init__(self, layout: Layout) -> None:
        self._archives: dict[Path, zipfile.ZipFile] = {}
        self._named: dict[str, dict[tuple[str, ...], Picture]] = {}
        loose = {path.relative_to(layout.images).parts: path for path in sorted(layout.images.rglob("*"))}
        for parts, path in loose.items():
            if path.suffix == ".zip" and path != layout.training and not _is_clutter(parts):
                self._archives[path] = open_zip(path)
                for member in self._archives[path].namelist():
                    self._add(PurePosixPath(member).parts, Picture(path, member))
        for parts, path in loose.items():
            # In the place of its zipped self, where it is unpacked beside the zip.
            self._add(parts, Picture(path, None))

    def close(self) -> None:
        """Close the zips."""
        for archive in self._archives.values():
            archive.close()

    def find(self, path: str) -> list[Picture]:
        """The figures whose paths agree with this one over the most components from the end, at least the name."""
        wanted = PurePosixPath(path.replace("\\", "/")).parts
        named = self._named.get(wanted[-1], {}) if wanted else {}
        agreement = {parts: _agreement(parts, wanted) for parts in named}
        most = max(agreement.values(), default=0)
        return [named[parts] for parts, count in agreement.items() if count == most]

    def read(self, picture: Picture) -> bytes:
        """The figure's file."""
        if picture.member is None:
            return picture.file.read_bytes()
        return self._archives[picture.file].read(picture.member)

    def _add(self, parts: tuple[str, ...], picture: Picture) -> None:
        if parts[-1].lower().endswith(_SUFFIXES) and not _is_clutter(parts):
            self._named.setdefault(parts[-1], {})[parts] = picture


def _agreement(parts: tuple[str, ...], wanted: tuple[str, ...]) -> int:
    count = 0
    for a, b in zip(reversed(parts), reversed(wanted), strict=False):
        if a != b:
            break
        count += 1
    return count
