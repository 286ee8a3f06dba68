"""File layout of ReFocus_Data: where its records and images are, and how each file encodes its records.

On the hub, the name of the test files' folder ends with a space, the training records are a zip of JSON lines, and the
images are zips below ``images/`` whose member paths match only the ends of the paths in the records. An older
revision has all files at the top level. Images that have been unpacked are found as well.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from iapo.artifacts import archives
from iapo.data.contexts import NOUN
from iapo.data.ingest import KIND
from iapo.data.mini_world.world import RAW_FILES
from iapo.data.records import IngestError, Record

TEST_FOLDER = "test_data_with_bounding_box "
"""Name on the hub, with a space at its end that some download tools strip."""

TRAINING = "train_chartqa_vcot.zip"
"""Archive of the training records, which cover the two chart sets."""

TRAINING_FOLDER = "train_raw_data"

IMAGES = "images"

_SUFFIXES = (".png", ".jpg", ".jpeg")

_OTHER_SPLITS = ("val", "dev", "test")
"""Stems of the archive's files that hold ChartQA's own other splits, which are not used."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_KNOWN_FIELDS: Mapping[str, frozenset[str]] = {
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
"""Kind of record → fields known from some release; any other field is reported and ignored."""


@dataclass(frozen=True)
class RawRecord:
    """One record in the format of :func:`iapo.data.ingest.read_record`."""

    test_set: str
    record: Record
    unknown_fields: tuple[str, ...]
    """Fields that no known release has, sorted."""


@dataclass(frozen=True)
class Layout:
    """The paths of one copy of ReFocus_Data."""

    name: Literal["hub", "flat"]
    test_files: Mapping[str, Path]
    """Test set → file of its records."""
    training: Path
    """The archive of the training records."""
    images: Path
    """Folder of the images and of their archives."""


def find_layout(root: Path) -> Layout:
    """Detect the layout of a copy of ReFocus_Data.

    Raises:
        IngestError: if files are missing; the message names all of them.
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
    """Yield the records of one test file: a JSON object keyed by id, in which a key may occur twice.

    Raises:
        IngestError: for a file that is not JSON in UTF-8, or a record that is not an object.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise IngestError(f"{path}: found bytes that are not UTF-8 ({error}); download the file again") from None
    for name, fields in _parsed(path, text).pairs:
        if not isinstance(fields, dict):
            raise IngestError(f"{path}, record {name!r}: found {type(fields).__name__}; expected an object")
        noun = NOUN[KIND[test_set]]
        record = Record(path, name, _without_header(fields) if noun == "table" else fields)
        yield RawRecord(test_set, record, tuple(sorted(fields.keys() - _KNOWN_FIELDS[noun])))


def _without_header(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Drop a table's first row: it is the header, which ReFocus's tools never mask and no call needs to name."""
    rows = {name: fields[name][1:] for name in ("row_starters", "rows_bbox") if isinstance(fields.get(name), list)}
    return {**fields, **rows}


def read_training(path: Path) -> Iterator[RawRecord]:
    """Yield the training records, read from the archive without unpacking it.

    Raises:
        IngestError: for a broken archive or line, or a record that belongs to neither chart set.
    """
    with open_zip(path) as archive:
        for member in sorted(archive.namelist()):
            name = PurePosixPath(member)
            if name.suffix == ".jsonl" and name.stem not in _OTHER_SPLITS and not _is_clutter(name.parts):
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
            known = Record(path, record.name, chart_fields(record) | {"figure_path": _image_path(record)})
            yield RawRecord(test_set, known, tuple(sorted(fields.keys() - _KNOWN_FIELDS["training"])))


def chart_fields(record: Record) -> dict[str, Any]:
    """Return the fields of a training record under the names that the test files use.

    ReFocus's first release has ``query`` and boxes keyed by label; later releases have ``question`` and lists of labels
    and boxes, as has VTool-R1's parquet.
    """
    fields = {"query": first(record, "query", "question"), "answer": record["answer"]}
    for axis in ("x", "y"):
        boxes = record[f"{axis}_values_bbox"]
        fields[f"{axis}_bboxes"] = boxes
        fields[f"{axis}_values"] = record.fields.get(f"{axis}_values", list(boxes))
    return fields | {"focus_areas": record.fields.get("focus_areas", record.fields.get("focus_areas_bbox"))}


def first(record: Record, *names: str) -> Any:
    """Return the value of the first of these fields that the record has.

    Raises:
        IngestError: if it has none of them.
    """
    found = next((name for name in names if name in record.fields), None)
    if found is None:
        raise IngestError(f"{record.where}: found {sorted(record.fields)}; expected one of {', '.join(names)}")
    return record[found]


def _image_path(record: Record) -> str:
    if "image" in record.fields:
        return str(record["image"])
    try:
        return str(record["conversations"][0]["images"][0])
    except (KeyError, IndexError, TypeError):
        raise IngestError(f"{record.where}: no figure; expected image, or images in the first conversation") from None


class _Object(dict[str, Any]):
    """A JSON object that keeps repeated keys, in ``pairs``."""

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
    """Open a zip archive, after checking that it is safe to read.

    Raises:
        IngestError: for a broken archive or an unsafe member.
    """
    try:
        return archives.open_zip(path)
    except archives.ArchiveError as error:
        raise IngestError(str(error)) from None


def _is_clutter(parts: Sequence[str]) -> bool:
    """Whether a path is a hidden file, or one that macOS adds to archives."""
    return any(part.startswith((".", "__MACOSX")) for part in parts)


@dataclass(frozen=True)
class Picture:
    """The location of an image."""

    file: Path
    """The image file, or the archive that holds it."""
    member: str | None
    """Path inside the archive; None for a file of its own."""


class Pictures:
    """Index of all images of a copy by the ends of their paths; in records and archives, paths begin differently."""

    def __init__(self, layout: Layout) -> None:
        self._archives: dict[Path, zipfile.ZipFile] = {}
        self._by_name: dict[str, dict[tuple[str, ...], Picture]] = {}
        loose = {path.relative_to(layout.images).parts: path for path in sorted(layout.images.rglob("*"))}
        for parts, path in loose.items():
            if path.suffix == ".zip" and path != layout.training and not _is_clutter(parts):
                self._archives[path] = open_zip(path)
                for member in self._archives[path].namelist():
                    self._add(PurePosixPath(member).parts, Picture(path, member))
        for parts, path in loose.items():
            # An image unpacked beside its archive takes the place of the archived one.
            self._add(parts, Picture(path, None))

    def close(self) -> None:
        """Close the archives."""
        for archive in self._archives.values():
            archive.close()

    def find(self, path: str) -> list[Picture]:
        """Return the images that share the longest path suffix with ``path``, at least the file name."""
        wanted = PurePosixPath(path.replace("\\", "/")).parts
        named = self._by_name.get(wanted[-1], {}) if wanted else {}
        agreement = {parts: _shared_suffix(parts, wanted) for parts in named}
        longest = max(agreement.values(), default=0)
        return [named[parts] for parts, count in agreement.items() if count == longest]

    def read(self, picture: Picture) -> bytes:
        """Return the encoded image file.

        Raises:
            IngestError: for a damaged member of an archive.
        """
        if picture.member is None:
            return picture.file.read_bytes()
        try:
            return self._archives[picture.file].read(picture.member)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise IngestError(
                f"{picture.file}: member {picture.member!r} is damaged ({error}); delete the archive and download it "
                "again"
            ) from None

    def _add(self, parts: tuple[str, ...], picture: Picture) -> None:
        if parts[-1].lower().endswith(_SUFFIXES) and not _is_clutter(parts):
            self._by_name.setdefault(parts[-1], {})[parts] = picture


def _shared_suffix(parts: tuple[str, ...], wanted: tuple[str, ...]) -> int:
    count = 0
    for a, b in zip(reversed(parts), reversed(wanted), strict=False):
        if a != b:
            break
        count += 1
    return count
