"""Generation of the mini world: draw figures and questions, and write them in ReFocus's raw format.

Records of tables and sub-figures have one field more than ReFocus's: ``focus_areas``, the annotated tool argument,
which ReFocus provides only for its chart training data.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from iapo.artifacts.files import write_json
from iapo.config.schema import DataConfig
from iapo.data.mini_world.figures import NAME_LETTERS, Grid, draw, figure_grid
from iapo.data.mini_world.gapminder import Table, countries, split_tables, years
from iapo.data.mini_world.hints import draw_hint
from iapo.data.mini_world.vocabulary import PANELS
from iapo.types import TEST_SETS, Split

RawFields = dict[str, object]
"""A raw record in ReFocus's format, as JSON."""

RAW_FILES = {
    "h_bar": "chartQA_h_bar_wbb.json",
    "v_bar": "chartQA_v_bar_wbb.json",
    "charxiv": "charxiv-subfigures.json",
    "vwtq": "tablevqa_wbb.json",
    "vwtq_syn": "tablevqa-vwtq_syn_wbb.json",
    "vtabfact": "tablevqa-vtabfact_wbb.json",
}
"""Test set → file name in ReFocus's release."""

_COUNTRY_SETS = ("h_bar", "v_bar", "vwtq", "vtabfact")
"""Test sets whose labels are countries, in one year; those of vwtq_syn are the years of one country, those of charxiv
its panels."""

_THRESHOLDS = (30, 50, 70)
"""Values that statements compare with."""

FIRST_QUESTIONS = 40
"""Training questions of each set that together ask for every label that dev and test ask for."""

_MAX_TRIES = 200
"""Figures drawn at most for one label before it is passed over."""

_TRIES_PER_TABLE = 50
"""Figures drawn at most of one indicator before the next is tried."""


@dataclass(frozen=True)
class Sample:
    """One figure with one question about one of its labels."""

    test_set: str
    indicator: str
    title: str
    """The year or country that all values share."""
    labels: tuple[str, ...]
    values: tuple[int, ...]
    asked: int
    """Index of the label that the question is about."""
    smudged: tuple[bool, ...]
    """Whether each value is covered by a smudge, so that no tool makes it readable."""
    threshold: int | None = None
    """The value that a statement compares with; None for questions."""

    @property
    def label(self) -> str:
        """The label that a tool should focus on."""
        return PANELS[self.asked] if self.test_set == "charxiv" else self.labels[self.asked]

    @property
    def answer(self) -> str:
        """The gold answer: the value, or 1 for a true statement and 0 for a false one."""
        value = self.values[self.asked]
        return str(value) if self.threshold is None else str(int(value > self.threshold))

    @property
    def query(self) -> str:
        """The question or the statement."""
        preposition = "of" if self.test_set in _COUNTRY_SETS else "in"
        subject = f"the {self.indicator} {preposition} {self.label}"
        if self.threshold is None:
            return f"what is {subject} ?"
        return f"{subject} is more than {self.threshold} ?"


def write_raw(config: DataConfig, root: Path) -> None:
    """Draw every split, and write ``<root>/<split>/<file name in ReFocus>.json`` with the figures beside it.

    Args:
        config: seed and counts.
        root: output directory.

    Raises:
        ValueError: as :func:`draw_samples`.
    """
    sizes: dict[Split, int] = {
        "train": config.train_per_set,
        "dev": config.dev_per_set,
        "test": config.test_per_set,
    }
    tables = split_tables(config.seed, config.value_unit)
    askable: set[str] | None = None
    for split, count in sizes.items():
        drawn = {
            test_set: draw_samples(
                random.Random(f"{config.seed}/{split}/{test_set}"),
                tables[split],
                test_set,
                count,
                config,
                askable,
                _others_first(split, count, config),
            )
            for test_set in TEST_SETS
        }
        if askable is None:
            askable = {sample.label for samples in drawn.values() for sample in samples[:FIRST_QUESTIONS]}
        for test_set, samples in drawn.items():
            _write_set(root / split, split, test_set, samples, config)


def _others_first(split: Split, count: int, config: DataConfig) -> int:
    """How many of a split's `count` questions, the first ones, ask for other labels than a figure's first."""
    if config.ask_first_label:
        return 0
    return FIRST_QUESTIONS if split == "train" else count


def _write_set(folder: Path, split: Split, test_set: str, samples: Sequence[Sample], config: DataConfig) -> None:
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    records = {}
    for i, sample in enumerate(samples):
        name = f"{split}-{test_set}-{i:04d}"
        figure_path = f"figures/{name}.png"
        draw(_grid(sample)).save(folder / figure_path, optimize=False)
        records[name] = _record(sample, name, figure_path) | _hint(sample, name, split, config)
    write_json(folder / RAW_FILES[test_set], records)


def _hint(sample: Sample, name: str, split: Split, config: DataConfig) -> dict[str, str]:
    """The record's hint: the right label at the configured rate in train, any label in dev and test."""
    if config.hint_rate is None:
        return {}
    labels = PANELS if sample.test_set == "charxiv" else sample.labels
    rate = config.hint_rate if split == "train" else 0.0
    return {"hint": draw_hint(random.Random(f"{config.seed}/hint/{name}"), sample.label, labels, rate)}


def draw_samples(
    rng: random.Random,
    tables: Sequence[Table],
    test_set: str,
    count: int,
    config: DataConfig,
    askable: Collection[str] | None = None,
    others_first: int = 0,
) -> list[Sample]:
    """Draw distinct samples of one test set; true and false statements alternate.

    Labels are asked for in turn, and the sets of countries start their turns apart, so that the first questions of a
    split ask for every label once before any set repeats itself. Each round of the labels moves every label on to its
    next indicator, so that no request is much more frequent than another.

    Args:
        rng: source of randomness.
        tables: tables of the split.
        test_set: which set to draw.
        count: number of samples.
        config: labels per figure, the rate of smudges, and the seed of the order of labels.
        askable: the only labels to ask for; None for all.
        others_first: how many samples, the first ones, ask for other labels than their figure's first.

    Raises:
        ValueError: if the tables do not hold that many distinct questions.
    """
    turns = [label for label in _asked_in_turn(tables, test_set, config.seed) if askable is None or label in askable]
    samples: dict[Sample, None] = {}
    for turn in range(_MAX_TRIES * count):
        if len(samples) == count:
            return list(samples)
        truth_wanted = None if test_set != "vtabfact" else len(samples) % 2 == 0
        asked, first = turns[turn % len(turns)], turn + turn // len(turns)
        fitting = [table for table in tables if test_set not in _COUNTRY_SETS or asked in table.values]
        order = (fitting[(first + tried // _TRIES_PER_TABLE) % len(fitting)] for tried in range(_MAX_TRIES))
        drawn = (_draw_sample(rng, table, test_set, asked, truth_wanted, config) for table in order)
        any_label = len(samples) >= others_first
        sample = next((each for each in drawn if each and (each.asked > 0 or any_label)), None)
        if sample is not None:
            samples.setdefault(sample)
    raise ValueError(
        f"{test_set}: found {len(samples)} distinct questions in the tables of this split, "
        f"expected {count}; lower data.*_per_set or labels_per_figure"
    )


def _asked_in_turn(tables: Sequence[Table], test_set: str, seed: int) -> list[str]:
    """The labels that a set asks for, in the order in which it does."""
    if test_set == "charxiv":
        return list(PANELS)
    if test_set not in _COUNTRY_SETS:
        return years()
    names = countries()
    random.Random(f"{seed}/asked").shuffle(names)
    start = _COUNTRY_SETS.index(test_set) * len(names) // len(_COUNTRY_SETS)
    known = {country for table in tables for country in table.values}
    return [country for country in names[start:] + names[:start] if country in known]


def _draw_sample(
    rng: random.Random,
    table: Table,
    test_set: str,
    asked: str,
    truth_wanted: bool | None,
    config: DataConfig,
) -> Sample | None:
    """Try to draw one sample of a table; None where the drawn figure does not fit."""
    title, series = _draw_series(rng, table, test_set)
    if test_set == "charxiv":
        labels = _draw_labels(rng, series, len(PANELS), [])
        index = PANELS.index(asked)
    elif asked in series:
        labels = _draw_labels(rng, series, config.labels_per_figure, [asked])
        index = labels.index(asked) if labels else 0
    else:
        return None
    if not labels:
        return None
    values = tuple(series[label] for label in labels)
    smudged = tuple(rng.random() < config.smudge_rate for _ in labels)
    threshold = None
    if truth_wanted is not None:
        threshold = rng.choice(_THRESHOLDS)
        truths = [value > threshold for value in values]
        if truths[index] != truth_wanted or all(truths) or not any(truths):
            return None
    return Sample(test_set, table.indicator, title, tuple(labels), values, index, smudged, threshold)


def _draw_series(rng: random.Random, table: Table, test_set: str) -> tuple[str, dict[str, int]]:
    """Draw what a figure's values share, and all that it could show: a country's years, or a year's countries."""
    if test_set == "vwtq_syn":
        title = rng.choice(sorted(table.values))
        return title, dict(table.values[title])
    title = rng.choice(sorted({year for row in table.values.values() for year in row}))
    return title, {country: row[title] for country, row in table.values.items() if title in row}


def _draw_labels(rng: random.Random, series: Mapping[str, int], count: int, labels: Sequence[str]) -> list[str]:
    """Complete some labels with others whose printed names differ; years in order, countries in any; [] if too few."""
    others = sorted(series)
    rng.shuffle(others)
    chosen = list(labels)
    printed = {label[:NAME_LETTERS] for label in chosen}
    for label in others:
        if len(chosen) < count and label[:NAME_LETTERS] not in printed:
            chosen.append(label)
            printed.add(label[:NAME_LETTERS])
    if len(chosen) < count:
        return []
    rng.shuffle(chosen)
    return sorted(chosen) if chosen[0].isdigit() else chosen


def _grid(sample: Sample) -> Grid:
    return figure_grid(sample.test_set, sample.labels, sample.values, sample.title, sample.smudged)


def _record(sample: Sample, name: str, figure_path: str) -> RawFields:
    if sample.test_set == "charxiv":
        return {
            "prompt": sample.query,
            "figure_path": figure_path,
            "answer": sample.answer,
            "focus_areas": [sample.label],
        }
    if sample.test_set in ("h_bar", "v_bar"):
        return _chart_record(sample, figure_path)
    return _table_record(sample, name, figure_path)


def _chart_record(sample: Sample, figure_path: str) -> RawFields:
    n = len(sample.labels)
    horizontal = sample.test_set == "h_bar"
    boxes = {
        label: _fraction(0, i / n, 1, (i + 1) / n) if horizontal else _fraction(i / n, 0, (i + 1) / n, 1)
        for i, label in enumerate(sample.labels)
    }
    labels = list(sample.labels)
    return {
        "query": sample.query,
        "answer": sample.answer,
        "figure_path": figure_path,
        "annotation_path": "",
        "x_values": [] if horizontal else labels,
        "y_values": labels if horizontal else [],
        "x_bboxes": {} if horizontal else boxes,
        "y_bboxes": boxes if horizontal else {},
        "figure_bbox": _fraction(0, 0, 1, 1),
        "focus_areas": [sample.label],
    }


def _table_record(sample: Sample, name: str, figure_path: str) -> RawFields:
    by_year = sample.test_set == "vwtq_syn"
    headers = list(sample.labels) if by_year else [sample.title]
    starters = [sample.title] if by_year else list(sample.labels)
    # The header row and the column of row names have no label.
    width, height = len(headers) + 1, len(starters) + 1
    columns = [_fraction(i / width, 0, (i + 1) / width, 1) for i in range(1, width)]
    rows = [_fraction(0, i / height, 1, (i + 1) / height) for i in range(1, height)]
    return {
        "figure_id": name,
        "query": sample.query,
        "prompt": sample.query,
        "answer": sample.answer,
        "figure_path": figure_path,
        "column_headers": headers,
        "row_starters": starters,
        "columns_bbox": columns,
        "rows_bbox": rows,
        "table_bbox": [_fraction(0, 0, 1, 1)],
        "focus_areas": [sample.label],
    }


def _fraction(left: float, top: float, right: float, bottom: float) -> dict[str, float]:
    """A box in ReFocus's format, in fractions of the image's width and height."""
    return {"x1": left, "y1": top, "x2": right, "y2": bottom}
