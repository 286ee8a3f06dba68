"""Reader of ReFocus_Data: convert its records into examples, report their irregularities, and assign splits.

Charts train on the training archive and test on the two test files; tables have no published split and are split here
by table; sub-figures are used for testing only.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, TypedDict

from iapo.artifacts.progress import Progress
from iapo.config.sources import RefocusConfig
from iapo.data.boxes import Oddity, Unit
from iapo.data.contexts import full_context
from iapo.data.ingest import KIND, Reading, read_record
from iapo.data.prompts import ANSWER_PREFIX
from iapo.data.records import IngestError, LeftOutError
from iapo.data.refocus.layout import Picture, Pictures, RawRecord, find_layout, read_test_file, read_training
from iapo.data.splits import SPLITS, deal, linked, ranking
from iapo.types import TEST_SETS, Example, Split

INSTRUCTION = (
    "You may call tools once before you answer. The last line of your answer must be "
    f'"{ANSWER_PREFIX}<answer>", as short as it can be: the number, the label, or for a statement true or false. '
    "Separate several answers by ||."
)
"""Instruction for pretrained models, which were not trained on this task; part of the plain text (block P)."""

_FIGURE_FAULTS = ("missing figure", "ambiguous figure", "unreadable figure")

_MAX_IDS_SHOWN = 5
"""Most ids that an error message names."""


class IngestReport(TypedDict):
    """What was found in a copy of ReFocus_Data; written as ``report.json``."""

    layout: str
    files: dict[str, dict[str, Any]]
    """File → the numbers of records and of used ones, those left out (reason → ids), repeated ids, oddities
    (kind → id → labels) and unknown fields."""
    counts: dict[Split, dict[str, int]]
    """Split → test set → examples."""
    figures: dict[Split, dict[str, int]]
    """Split → test set → distinct figures."""
    ids_in_several_files: dict[str, list[str]]
    """Id → files."""


@dataclass(frozen=True)
class Ingested:
    """All examples of ReFocus_Data, and the report on its records."""

    examples: Mapping[Split, Mapping[str, list[Example]]]
    """Split → test set → examples, in a random order fixed by the seed."""
    report: IngestReport


def read_refocus(root: Path, config: RefocusConfig) -> Ingested:
    """Return all examples of ReFocus_Data at once; :class:`RefocusData` yields them one test set at a time.

    Args:
        root: the downloaded folder, in either layout.
        config: split rates, seed, and expected counts.

    Raises:
        IngestError: if files are missing or broken, counts differ from the expected ones, or too many images are
            missing.
    """
    with RefocusData(root, config) as data:
        examples = {split: {name: list(data.examples(split, name)) for name in TEST_SETS} for split in SPLITS}
        return Ingested(examples, data.report)


@dataclass
class _FileReport:
    """What was found in one file of records; ids are those of the file."""

    records: int = 0
    used: int = 0
    left_out: dict[str, list[str]] = field(default_factory=dict)
    """Reason → ids."""
    repeated_ids: dict[str, int] = field(default_factory=dict)
    """Id → number of records that have it."""
    oddities: dict[Oddity, dict[str, list[str]]] = field(default_factory=dict)
    """Kind of irregularity → id → labels concerned."""
    unknown_fields: list[str] = field(default_factory=list)

    def leave_out(self, name: str, reason: str) -> None:
        """Note that a record is not used, and why."""
        self.left_out.setdefault(reason, []).append(name)


@dataclass(frozen=True)
class _Draft:
    """An example whose image has not been read into memory, and whose id and split are not final."""

    source: str
    """Name of the file of records."""
    name: str
    """The record's id in that file."""
    content: str
    """The record as canonical JSON, which distinguishes records that share an id."""
    example: Example
    """The example without its image; id and split are provisional until splits are assigned."""
    picture: Picture
    signature: str
    """Hash of the image's pixels; see :attr:`iapo.data.ingest.Reading.signature`."""

    @property
    def test_set(self) -> str:
        """The example's test set."""
        return self.example.test_set


class RefocusData:
    """One copy of ReFocus_Data, as a context manager; images are read only as :meth:`examples` yields them."""

    report: IngestReport

    def __init__(self, root: Path, config: RefocusConfig) -> None:
        """Read every record and decode every image once. Arguments and errors as :func:`read_refocus`."""
        self._config = config
        self._layout = find_layout(root)
        self._files = {path.name: _FileReport() for path in [*self._layout.test_files.values(), self._layout.training]}
        self._pictures = Pictures(self._layout)
        drafts = self._read()
        self._check_missing_figures()
        self._sets = self._assigned(_distinct_ids(drafts))
        self.report = self._summary(drafts)
        self._check_counts()

    def __enter__(self) -> RefocusData:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pictures.close()

    def examples(self, split: Split, test_set: str) -> Iterator[Example]:
        """Yield the examples of one split and test set with their images, in a random order fixed by the seed."""
        for draft in self._sets[split][test_set]:
            yield replace(draft.example, image_png=self._pictures.read(draft.picture))

    def raw_files(self) -> list[Path]:
        """Return the paths of all files that the examples come from, sorted."""
        used = {draft.picture.file for sets in self._sets.values() for drafts in sets.values() for draft in drafts}
        return sorted({*self._layout.test_files.values(), self._layout.training, *used})

    def _read(self) -> list[_Draft]:
        drafts: list[_Draft] = []
        for test_set, path in self._layout.test_files.items():
            unit: Unit | None = None if test_set == "charxiv" else "fraction"
            drafts += self._drafts(path.name, list(read_test_file(path, test_set)), unit)
        return drafts + self._drafts(self._layout.training.name, list(read_training(self._layout.training)), "pixel")

    def _drafts(self, source: str, records: Sequence[RawRecord], unit: Unit | None) -> list[_Draft]:
        """Return drafts of a file's usable records, and fill in the file's report."""
        report = self._files[source]
        times: Counter[str] = Counter()
        seen: set[tuple[str, str]] = set()
        unknown: set[str] = set()
        drafts = []
        with Progress(len(records), f"ingest {source}", unit="record") as progress:
            for raw in records:
                name, content = raw.record.name, json.dumps(raw.record.fields, sort_keys=True)
                times[name] += 1
                unknown.update(raw.unknown_fields)
                try:
                    if (name, content) in seen:
                        raise LeftOutError(raw.record, "repeats another record", "stands there twice")
                    seen.add((name, content))
                    drafts.append(self._draft(source, raw, content, unit))
                except LeftOutError as error:
                    report.leave_out(name, error.reason)
                progress.update(1)
        report.records = times.total()
        report.repeated_ids = {name: count for name, count in sorted(times.items()) if count > 1}
        report.unknown_fields = sorted(unknown)
        return drafts

    def _draft(self, source: str, raw: RawRecord, content: str, unit: Unit | None) -> _Draft:
        record = raw.record
        found = self._pictures.find(str(record["figure_path"]))
        if len(found) != 1:
            reason = "ambiguous figure" if found else "missing figure"
            raise LeftOutError(record, reason, f"{len(found)} figures agree with {record['figure_path']!r}")
        reading = read_record(record, self._pictures.read(found[0]), test_set=raw.test_set, split="test")
        oddities = dict(reading.oddities)
        if reading.unit not in (unit, None):
            oddities["boxes in the other unit"] = []
        for oddity, labels in oddities.items():
            self._files[source].oddities.setdefault(oddity, {}).setdefault(record.name, []).extend(labels)
        example = replace(real_example(reading), image_png=b"")
        return _Draft(source, record.name, content, example, found[0], reading.signature)

    def _check_missing_figures(self) -> None:
        for name, report in self._files.items():
            missing = [each for reason in _FIGURE_FAULTS for each in report.left_out.get(reason, [])]
            if len(missing) > self._config.max_missing_figures * report.records:
                raise IngestError(
                    f"{name}: no figure for {len(missing)} of {report.records} records "
                    f"({', '.join(missing[:_MAX_IDS_SHOWN])}); expected at most "
                    f"{self._config.max_missing_figures:.1%}. Download {self._layout.images} again, or raise "
                    "data.refocus.max_missing_figures"
                )

    def _assigned(self, named: Mapping[str, _Draft]) -> dict[Split, dict[str, list[_Draft]]]:
        """Assign ids and splits: split → test set → drafts, in a random order fixed by the seed."""
        split_of = self._table_splits(named) | self._chart_splits(named)
        sets: dict[Split, dict[str, list[_Draft]]] = {split: {name: [] for name in TEST_SETS} for split in SPLITS}
        for example_id in sorted(split_of, key=lambda name: ranking(self._config.seed, name)):
            draft, split = named[example_id], split_of[example_id]
            example = replace(draft.example, example_id=example_id, split=split)
            sets[split][draft.test_set].append(replace(draft, example=example))
            self._files[draft.source].used += 1
        return sets

    def _chart_splits(self, named: Mapping[str, _Draft]) -> dict[str, Split]:
        """Put the test files in test, and training figures that are in no test file in train and dev."""
        training = self._layout.training.name
        split_of: dict[str, Split] = {}
        tested = set()
        for example_id, draft in named.items():
            if draft.source != training and KIND[draft.test_set] != "table":
                split_of[example_id] = "test"
                tested.add(draft.signature)
        usable: dict[str, _Draft] = {}
        for example_id, draft in named.items():
            if draft.source == training and draft.signature in tested:
                self._files[training].leave_out(draft.name, "figure is also in test")
            elif draft.source == training:
                usable[example_id] = draft
        figures = {example_id: draft.signature for example_id, draft in usable.items()}
        return split_of | self._split_by_group(usable, figures, test_rate=0.0)

    def _table_splits(self, named: Mapping[str, _Draft]) -> dict[str, Split]:
        tables = {example_id: draft for example_id, draft in named.items() if KIND[draft.test_set] == "table"}
        groups = linked({example_id: _table_links(draft) for example_id, draft in tables.items()})
        # Groups are named by their images, so that adding or removing a question moves no other to another split.
        first_signature: dict[str, str] = {}
        for example_id, group in groups.items():
            first_signature[group] = min(first_signature.get(group, "~"), tables[example_id].signature)
        figures = {example_id: first_signature[group] for example_id, group in groups.items()}
        return self._split_by_group(tables, figures, test_rate=self._config.table_test_rate)

    def _split_by_group(
        self, drafts: Mapping[str, _Draft], groups: Mapping[str, str], *, test_rate: float
    ) -> dict[str, Split]:
        sets = [[groups[name] for name, draft in drafts.items() if draft.test_set == each] for each in TEST_SETS]
        split_of = deal(sets, test_rate=test_rate, dev_rate=self._config.dev_rate, seed=self._config.seed)
        return {name: split_of[group] for name, group in groups.items()}

    def _summary(self, drafts: Sequence[_Draft]) -> IngestReport:
        files: dict[str, set[str]] = defaultdict(set)
        for draft in drafts:
            files[draft.name].add(draft.source)
        return {
            "layout": self._layout.name,
            "files": {name: asdict(report) for name, report in self._files.items()},
            "counts": {split: {name: len(kept) for name, kept in sets.items()} for split, sets in self._sets.items()},
            "figures": {
                split: {name: len({draft.signature for draft in kept}) for name, kept in sets.items()}
                for split, sets in self._sets.items()
            },
            "ids_in_several_files": {name: sorted(found) for name, found in sorted(files.items()) if len(found) > 1},
        }

    def _check_counts(self) -> None:
        """Compare the counts with the expected ones, which may name files without their suffix."""
        counts = {f"{split}/{name}": n for split, sets in self.report["counts"].items() for name, n in sets.items()}
        files = {name: report.records for name, report in self._files.items()}
        found = counts | files | {Path(name).stem: count for name, count in files.items()}
        wrong = [
            f"{name}: found {found.get(name, 'no such set or file')}, expected {count}"
            for name, count in self._config.expected.items()
            if found.get(name) != count
        ]
        if wrong:
            raise IngestError(
                f"ReFocus_Data's counts have changed: {'; '.join(wrong)}. Check that data.refocus.source.revision is "
                "the commit that you mean; to take the data as it is, set data.refocus.expected to what was found"
            )


def _table_links(draft: _Draft) -> list[Hashable]:
    """Return the keys by which two records count as the same table: pixels, WikiTableQuestions id, or all labels.

    VWTQ_syn redraws tables of VWTQ and keeps the questions' ids, so that splitting by pixels alone would test on
    tables seen in training.
    """
    boxes = draft.example.figure.boxes
    links: list[Hashable] = [("pixels", draft.signature), (draft.test_set.removesuffix("_syn"), draft.name)]
    if len(boxes) == 2:
        links.append(tuple(tuple(labels) for labels in boxes.values()))
    return links


def _distinct_ids(drafts: Iterable[_Draft]) -> dict[str, _Draft]:
    """Name drafts ``<set>/<id>``; of those that share a name, all but the first by content get a number."""
    sharing: dict[str, list[_Draft]] = defaultdict(list)
    for draft in drafts:
        sharing[f"{draft.test_set}/{draft.name}"].append(draft)
    named: dict[str, _Draft] = {}
    for shared_id, group in sorted(sharing.items()):
        for i, draft in enumerate(sorted(group, key=lambda each: (each.source, each.content)), start=1):
            example_id = shared_id if i == 1 else f"{shared_id}#{i}"
            while example_id in named or (i > 1 and example_id in sharing):
                example_id += "'"
            named[example_id] = draft
    return named


def real_example(reading: Reading) -> Example:
    """Return the example for a pretrained model, its figure named by a hash of the pixels, its context complete."""
    figure = replace(reading.example.figure, figure_id=reading.signature[:16])
    return replace(reading.example, figure=figure, context=f"{full_context(figure.kind, figure.boxes)}\n{INSTRUCTION}")
