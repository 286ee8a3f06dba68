"""ReFocus_Data as examples: its records found, their oddities counted, its figures dealt to splits.

Charts are trained on the training zip and tested on the two test files; tables have no split of their own and are
dealt by table; sub-figures are for testing only.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from iapo.config_sources import RefocusConfig
from iapo.data.boxes import Oddity, Unit
from iapo.data.ingest import KIND, NOUN, Reading, read_record
from iapo.data.records import IngestError, LeftOutError
from iapo.data.refocus_layout import Picture, Pictures, RawRecord, find_layout, read_test_file, read_training
from iapo.data.splits import SPLITS, deal, linked, ranking
from iapo.progress import Progress
from iapo.prompts import ANSWER_PREFIX
from iapo.types import TEST_SETS, Example, Figure, Split

INSTRUCTION = (
    "You may call tools once before you answer. The last line of your answer must be "
    f'"{ANSWER_PREFIX}<answer>", as short as it can be: the number, the label, or for a statement true or false. '
    "Separate several answers by ||."
)
"""What a pretrained model has to be told, as a part of the plain text."""
_NO_FIGURE = ("missing figure", "ambiguous figure", "unreadable figure")
_SHOWN = 5
"""Ids that a message names."""


@dataclass(frozen=True)
class Ingested:
    """All examples, and what was found on the way."""

    examples: Mapping[Split, Mapping[str, list[Example]]]
    """Split → test set → examples, in an order drawn by the seed."""
    report: Mapping[str, Any]
    """As :attr:`RefocusData.report`."""


def read_refocus(root: Path, config: RefocusConfig) -> Ingested:
    """All of ReFocus_Data at once; :class:`RefocusData` gives it set by set.

    Args:
        root: the downloaded folder, in either layout.
        config: rates and seed of the splits, counts that must be found.

    Raises:
        IngestError: where files are missing or broken, counts differ or too many figures are missing.
    """
    with RefocusData(root, config) as data:
        examples = {split: {name: list(data.examples(split, name)) for name in TEST_SETS} for split in SPLITS}
        return Ingested(examples, data.report)


@dataclass
class _FileReport:
    """What was found in one file. Ids are the file's own."""

    records: int = 0
    used: int = 0
    left_out: dict[str, list[str]] = field(default_factory=dict)
    """Reason → ids."""
    repeated_ids: dict[str, int] = field(default_factory=dict)
    """Id → how often it stands there."""
    oddities: dict[Oddity, dict[str, list[str]]] = field(default_factory=dict)
    """Oddity → id → labels."""
    unknown_fields: list[str] = field(default_factory=list)

    def leave_out(self, name: str, reason: str) -> None:
        """Note that a record is not used."""
        self.left_out.setdefault(reason, []).append(name)


@dataclass(frozen=True)
class _Draft:
    """An example whose picture is still where it was found."""

    source: str
    """Its file's name."""
    name: str
    """Its id there."""
    content: str
    """Its record as canonical JSON, which tells records of one id apart."""
    example: Example
    """Without the picture and, until they are known, the final id and the split."""
    picture: Picture
    signature: str
    """Of the figure."""

    @property
    def test_set(self) -> str:
        """Its set."""
        return self.example.test_set


class RefocusData:
    """One copy of ReFocus_Data, whose pictures are read when their set is asked for. A context manager."""

    report: Mapping[str, Any]
    """``layout``; ``files`` → records, used, left out (reason → ids), repeated ids, oddities (→ id → labels), unknown
    fields; ``counts`` and ``figures`` by split and set; ``ids_in_several_files`` → files."""

    def __init__(self, root: Path, config: RefocusConfig) -> None:
        """Read every record and look at every figure once. Arguments and errors as :func:`read_refocus`."""
        self._config = config
        self._layout = find_layout(root)
        self._files = {path.name: _FileReport() for path in [*self._layout.test_files.values(), self._layout.training]}
        self._pictures = Pictures(self._layout)
        drafts = self._read()
        self._refuse_gaps()
        self._sets = self._dealt(_distinct_ids(drafts))
        self.report = self._summary(drafts)
        self._check_counts()

    def __enter__(self) -> RefocusData:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._pictures.close()

    def examples(self, split: Split, test_set: str) -> Iterator[Example]:
        """The examples of one set, with their pictures, in an order drawn by the seed."""
        for draft in self._sets[split][test_set]:
            yield replace(draft.example, image_png=self._pictures.read(draft.picture))

    def raw_files(self) -> list[Path]:
        """Every file that examples are from."""
        used = {draft.picture.file for sets in self._sets.values() for drafts in sets.values() for draft in drafts}
        return sorted({*self._layout.test_files.values(), self._layout.training, *used})

    def _read(self) -> list[_Draft]:
        drafts: list[_Draft] = []
        for test_set, path in self._layout.test_files.items():
            unit: Unit | None = None if test_set == "charxiv" else "fraction"
            drafts += self._drafts(path.name, list(read_test_file(path, test_set)), unit)
        return drafts + self._drafts(self._layout.training.name, list(read_training(self._layout.training)), "pixel")

    def _drafts(self, source: str, records: Sequence[RawRecord], unit: Unit | None) -> list[_Draft]:
        """The usable records of a file, whose report is filled in."""
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

    def _refuse_gaps(self) -> None:
        for name, report in self._files.items():
            gaps = [each for reason in _NO_FIGURE for each in report.left_out.get(reason, [])]
            if len(gaps) > self._config.most_missing_figures * report.records:
                raise IngestError(
                    f"{name}: no figure for {len(gaps)} of {report.records} records ({', '.join(gaps[:_SHOWN])}); "
                    f"expected at most {self._config.most_missing_figures:.1%}. Download {self._layout.images} again, "
                    "or raise data.refocus.most_missing_figures"
                )

    def _dealt(self, named: Mapping[str, _Draft]) -> dict[Split, dict[str, list[_Draft]]]:
        """Split → set → drafts with their ids, in an order drawn by the seed."""
        sides = self._table_sides(named) | self._chart_sides(named)
        sets: dict[Split, dict[str, list[_Draft]]] = {split: {name: [] for name in TEST_SETS} for split in SPLITS}
        for example_id in sorted(sides, key=lambda name: ranking(self._config.seed, name)):
            draft, split = named[example_id], sides[example_id]
            example = replace(draft.example, example_id=example_id, split=split)
            sets[split][draft.test_set].append(replace(draft, example=example))
            self._files[draft.source].used += 1
        return sets

    def _chart_sides(self, named: Mapping[str, _Draft]) -> dict[str, Split]:
        """Test files are tested on; of the training figures that are in none of them, some are held out."""
        training = self._layout.training.name
        sides: dict[str, Split] = {}
        tested = set()
        for example_id, draft in named.items():
            if draft.source != training and KIND[draft.test_set] != "table":
                sides[example_id] = "test"
                tested.add(draft.signature)
        usable: dict[str, _Draft] = {}
        for example_id, draft in named.items():
            if draft.source == training and draft.signature in tested:
                self._files[training].leave_out(draft.name, "figure is also in test")
            elif draft.source == training:
                usable[example_id] = draft
        figures = {example_id: draft.signature for example_id, draft in usable.items()}
        return sides | self._drawn(usable, figures, test_rate=0.0)

    def _table_sides(self, named: Mapping[str, _Draft]) -> dict[str, Split]:
        tables = {example_id: draft for example_id, draft in named.items() if KIND[draft.test_set] == "table"}
        groups = linked({example_id: _table_links(draft) for example_id, draft in tables.items()})
        # Named by its figures, so that a question that comes or goes leaves the others where they are.
        least: dict[str, str] = {}
        for example_id, group in groups.items():
            least[group] = min(least.get(group, "~"), tables[example_id].signature)
        figures = {example_id: least[group] for example_id, group in groups.items()}
        return self._drawn(tables, figures, test_rate=self._config.table_test_rate)

    def _drawn(self, drafts: Mapping[str, _Draft], groups: Mapping[str, str], *, test_rate: float) -> dict[str, Split]:
        sets = [[groups[name] for name, draft in drafts.items() if draft.test_set == each] for each in TEST_SETS]
        sides = deal(sets, test_rate=test_rate, dev_rate=self._config.dev_rate, seed=self._config.seed)
        return {name: sides[group] for name, group in groups.items()}

    def _summary(self, drafts: Sequence[_Draft]) -> dict[str, Any]:
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
        """Hold what was found against `expected`, whose files may be named without their suffix."""
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
    """What makes two records show one table: pixels, WikiTableQuestions' id, or all labels.

    VWTQ_syn draws tables of VWTQ anew and keeps the questions' ids, so pixels alone would test on trained tables.
    """
    boxes = draft.example.figure.boxes
    links: list[Hashable] = [("pixels", draft.signature), (draft.test_set.removesuffix("_syn"), draft.name)]
    if len(boxes) == 2:
        links.append(tuple(tuple(labels) for labels in boxes.values()))
    return links


def _distinct_ids(drafts: Iterable[_Draft]) -> dict[str, _Draft]:
    """``<set>/<id>`` → draft; of records that share it, all but the first by content get a number."""
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
    """The example as a pretrained model gets it: figures named by their pixels, and the full context."""
    figure = replace(reading.example.figure, figure_id=reading.signature[:16])
    return replace(reading.example, figure=figure, context=_full_context(figure))


def _full_context(figure: Figure) -> str:
    """Block P of a real figure: its kind, the labels of every family, and how to answer."""
    families = [f" {family.replace('_', ' ')} : {' , '.join(labels)} ." for family, labels in figure.boxes.items()]
    return f"{NOUN[figure.kind]} .{''.join(families)}\n{INSTRUCTION}"
