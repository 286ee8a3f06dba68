"""Generation of the mini world: draw figures and questions, and write them in ReFocus's raw format.

Records of tables and sub-figures have one field more than ReFocus's: ``focus_areas``, the annotated tool argument,
which ReFocus provides only for its chart training data.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from iapo.artifacts.files import write_json
from iapo.config.schema import DataConfig
from iapo.data.mini_world.figures import Grid, draw, figure_grid
from iapo.data.mini_world.gapminder import Table, split_tables
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

_BY_YEAR = ("v_bar", "vwtq_syn")
"""Test sets whose labels are the years of one country; the labels of the others are countries, in one year."""

_THRESHOLDS = (30, 50, 70)
"""Values that statements compare with."""

_MIN_RATIO = 1.12
"""Smallest ratio of two values in a figure, so that no other value passes as the answer within the 5 % tolerance of
relaxed accuracy."""

_MAX_TRIES = 100_000


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
        if self.test_set == "charxiv":
            return f"what is the value in {self.label} ?"
        preposition = "in" if self.test_set in _BY_YEAR else "of"
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
    tables = split_tables(config.seed)
    for split, count in sizes.items():
        figures = root / split / "figures"
        figures.mkdir(parents=True, exist_ok=True)
        for test_set in TEST_SETS:
            rng = random.Random(f"{config.seed}/{split}/{test_set}")
            samples = draw_samples(rng, tables[split], test_set, count, config.labels_per_figure)
            records = {}
            for i, sample in enumerate(samples):
                name = f"{split}-{test_set}-{i:04d}"
                path = figures / f"{name}.png"
                draw(_grid(sample)).save(path, optimize=False)
                records[name] = _record(sample, name, f"figures/{name}.png") | _hint(sample, name, split, config)
            write_json(root / split / RAW_FILES[test_set], records)


def _hint(sample: Sample, name: str, split: Split, config: DataConfig) -> dict[str, str]:
    """The record's hint: the right label at the configured rate in train, any label in dev and test."""
    if config.hint_rate is None:
        return {}
    labels = PANELS if sample.test_set == "charxiv" else sample.labels
    rate = config.hint_rate if split == "train" else 0.0
    return {"hint": draw_hint(random.Random(f"{config.seed}/hint/{name}"), sample.label, labels, rate)}


def draw_samples(rng: random.Random, tables: Sequence[Table], test_set: str, count: int, labels: int) -> list[Sample]:
    """Draw distinct samples of one test set; true and false statements alternate.

    Args:
        rng: source of randomness.
        tables: tables of the split.
        test_set: which set to draw.
        count: number of samples.
        labels: labels per figure; sub-figures always have four.

    Raises:
        ValueError: if the tables do not hold that many distinct questions.
    """
    samples: dict[Sample, None] = {}
    for _ in range(_MAX_TRIES):
        if len(samples) == count:
            return list(samples)
        truth_wanted = None if test_set != "vtabfact" else len(samples) % 2 == 0
        sample = _draw_sample(rng, tables, test_set, 4 if test_set == "charxiv" else labels, truth_wanted)
        if sample is not None:
            samples.setdefault(sample)
    raise ValueError(
        f"{test_set}: found {len(samples)} distinct questions in the tables of this split, "
        f"expected {count}; lower data.*_per_set or labels_per_figure"
    )


def _draw_sample(
    rng: random.Random, tables: Sequence[Table], test_set: str, n: int, truth_wanted: bool | None
) -> Sample | None:
    """Try to draw one sample; None where the drawn table has no figure that fits."""
    table = rng.choice(tables)
    series: dict[str, int]
    if test_set in _BY_YEAR:
        title = rng.choice(sorted(table.values))
        series = dict(table.values[title])
    else:
        title = rng.choice(sorted({year for row in table.values.values() for year in row}))
        series = {c: row[title] for c, row in table.values.items() if title in row}
    labels = _spread_labels(rng, series, n)
    if labels is None:
        return None
    if test_set in _BY_YEAR:
        labels.sort()
    values = tuple(series[label] for label in labels)
    asked = rng.randrange(n)
    threshold = None
    if truth_wanted is not None:
        threshold = rng.choice(_THRESHOLDS)
        truths = [value > threshold for value in values]
        if truths[asked] != truth_wanted or all(truths) or not any(truths):
            return None
    return Sample(test_set, table.indicator, title, tuple(labels), values, asked, threshold)


def _spread_labels(rng: random.Random, series: dict[str, int], n: int) -> list[str] | None:
    """Choose ``n`` labels in random order whose values are well apart; None where this draw finds too few."""
    shuffled = sorted(series)
    rng.shuffle(shuffled)
    chosen: list[str] = []
    for label in shuffled:
        pairs = [sorted((series[label], series[other])) for other in chosen]
        if all(high > _MIN_RATIO * low for low, high in pairs):
            chosen.append(label)
        if len(chosen) == n:
            return chosen
    return None


def _grid(sample: Sample) -> Grid:
    return figure_grid(sample.test_set, sample.labels, sample.values, sample.title)


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
