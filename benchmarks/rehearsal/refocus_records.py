"""Records and images of a small stand-in for ReFocus_Data, generated from gapminder's numbers.

Record fields, units, box formats and image sizes are those of the repository on the hub.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from benchmarks.rehearsal.drawings import Corners, Drawing, bar_chart, encoded, panels, table
from iapo.data.mini_world.gapminder import INDICATORS, indicator_values
from iapo.types import TEST_SETS

Record = dict[str, Any]
"""A raw record, as JSON."""
ChartSet = Literal["h_bar", "v_bar"]

_FOLDERS = {
    "h_bar": "data/ChartQA Dataset/test/png",
    "v_bar": "data/ChartQA Dataset/test/png",
    "charxiv": "charxiv/images",
    "vwtq": "tablevqabench/images",
    "vwtq_syn": "tablevqabench/images-vwtq_syn",
    "vtabfact": "tablevqabench/images-vtabfact",
}
"""Test set → folder of the images, according to its records."""
_TRAINING_PICTURES = "data/ChartQA/train/png"


@dataclass
class Fixture:
    """All records and images, before they are written."""

    tests: dict[str, list[tuple[str, Record]]] = field(default_factory=lambda: {name: [] for name in TEST_SETS})
    """Test set → pairs of id and record, in the order of the file."""
    training: list[Record] = field(default_factory=list)
    pictures: dict[str, bytes] = field(default_factory=dict)
    """Path below ``images/`` → encoded image."""


def draw_fixture(rng: random.Random, figures: int, questions: int) -> Fixture:
    """Generate all records and images; no two figures show the same numbers.

    Args:
        rng: source of randomness.
        figures: figures per file and chart set.
        questions: questions per figure, 1 to 3.
    """
    fixture = Fixture()
    data = _Numbers(rng)
    for kind in ("h_bar", "v_bar"):
        for i in range(figures):
            _add_chart(fixture, rng, data, kind, f"two_col_{kind[0]}{i:04d}", questions)
        for i in range(figures):
            _add_training_chart(fixture, rng, data, kind, f"multi_col_{kind[0]}{i:04d}", questions)
    for test_set in ("vwtq", "vwtq_syn", "vtabfact"):
        for i in range(figures):
            _add_table(fixture, rng, data, test_set, i, questions)
    for i in range(figures):
        _add_panels(fixture, rng, data, str(i), questions)
    return fixture


_UNIT = 1
"""What values are rounded to: finer than the mini world's, so that a figure's values can all differ."""


class _Numbers:
    """Sampler of labels with distinct values, which never returns the same selection twice."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._drawn: set[tuple[str, ...]] = set()

    def countries(self, count: int, years: int) -> tuple[str, list[str], list[str], list[list[int]]]:
        """Sample an indicator, countries and years; return them with the values by country and year."""
        while True:
            indicator = self._rng.choice(INDICATORS)
            rows = indicator_values(_UNIT)[indicator]
            chosen_years = sorted(self._rng.sample(sorted({year for row in rows.values() for year in row}), years))
            complete = [name for name, row in rows.items() if all(year in row for year in chosen_years)]
            if len(complete) < count:
                continue
            names = self._rng.sample(complete, count)
            values = [[rows[name][year] for year in chosen_years] for name in names]
            distinct = all(len(set(column)) == count for column in zip(*values, strict=True))
            if distinct and (indicator, *names, *chosen_years) not in self._drawn:
                self._drawn.add((indicator, *names, *chosen_years))
                return indicator, names, chosen_years, values

    def history(self, years: int) -> tuple[str, str, list[str], list[int]]:
        """Sample an indicator, a country and years; return them with the values by year."""
        while True:
            indicator = self._rng.choice(INDICATORS)
            country, row = self._rng.choice(sorted(indicator_values(_UNIT)[indicator].items()))
            if len(row) < years:
                continue
            chosen = sorted(self._rng.sample(sorted(row), years))
            values = [row[year] for year in chosen]
            if len(set(values)) == years and (indicator, country, *chosen) not in self._drawn:
                self._drawn.add((indicator, country, *chosen))
                return indicator, country, chosen, values


@dataclass(frozen=True)
class _Chart:
    """A drawn chart with its questions."""

    drawing: Drawing
    questions: list[tuple[str, str, list[str]]]
    """Question, answer, and labels to focus on."""


def _chart(rng: random.Random, data: _Numbers, kind: ChartSet, questions: int) -> _Chart:
    size = (rng.randrange(600, 851, 10), rng.randrange(450, 601, 10))
    if kind == "h_bar":
        indicator, labels, (year,), rows = data.countries(rng.randint(4, 7), 1)
        values, title, preposition = [row[0] for row in rows], f"{indicator}, {year}", "of"
    else:
        indicator, country, labels, values = data.history(rng.randint(4, 7))
        title, preposition = f"{indicator}, {country}", "in"
    a, b = rng.sample(range(len(labels)), 2)
    asked = [
        (f"What is the {indicator} {preposition} {labels[a]}?", str(values[a]), [labels[a]]),
        (
            f"What is the difference between the {indicator} {preposition} {labels[a]} and {labels[b]}?",
            str(abs(values[a] - values[b])),
            [labels[a], labels[b]],
        ),
        (f"Which bar shows the highest {indicator}?", labels[values.index(max(values))], []),
    ]
    return _Chart(bar_chart(kind, labels, values, title, size), asked[:questions])


def _add_chart(fixture: Fixture, rng: random.Random, data: _Numbers, kind: ChartSet, stem: str, questions: int) -> None:
    chart = _chart(rng, data, kind, questions)
    path = f"{_FOLDERS[kind]}/{stem}.png"
    fixture.pictures[f"ChartQA/ChartQA Dataset/test/png/{stem}.png"] = encoded(chart.drawing.image, path)
    labels, boxes = list(chart.drawing.labels), [fraction(box, chart.drawing) for box in chart.drawing.labels.values()]
    horizontal = kind == "h_bar"
    for i, (query, answer, _) in enumerate(chart.questions):
        record = {
            "query": query,
            "answer": answer,
            "figure_path": path,
            "annotation_path": f"data/ChartQA Dataset/test/annotations/{stem}.json",
            "x_values": [] if horizontal else labels,
            "y_values": labels if horizontal else [],
            "x_bboxes": [] if horizontal else boxes,
            "y_bboxes": boxes if horizontal else [],
            "figure_bbox": fraction(chart.drawing.area, chart.drawing),
        }
        fixture.tests[kind].append((f"{stem}-{i}", record))


def _add_training_chart(
    fixture: Fixture, rng: random.Random, data: _Numbers, kind: ChartSet, stem: str, questions: int
) -> None:
    chart = _chart(rng, data, kind, questions)
    path = f"{_TRAINING_PICTURES}/{stem}.png"
    fixture.pictures[f"ChartQA/ChartQA Dataset/train/png/{stem}.png"] = encoded(chart.drawing.image, path)
    for i, (query, answer, focus) in enumerate(chart.questions):
        boxes = {label: pixels(box) for label, box in chart.drawing.labels.items()}
        record = {
            "id": f"train-{stem}-{i}",
            "source": kind,
            "query": query,
            "answer": answer,
            "x_values_bbox": {} if kind == "h_bar" else boxes,
            "y_values_bbox": boxes if kind == "h_bar" else {},
            "figure_bbox": pixels(chart.drawing.area),
            "focus_areas": [boxes[label] for label in focus],
            "conversations": list(_conversation(kind, path, focus, answer)),
        }
        fixture.training.append(record)


def _conversation(kind: ChartSet, path: str, focus: list[str], answer: str) -> Iterator[Record]:
    """The demonstration that ReFocus fine-tunes on: code that edits the figure, then the answer."""
    if focus:
        family = "y_values" if kind == "h_bar" else "x_values"
        code = f"image = focus_on_{family}_with_draw(image_1, {json.dumps(focus)}, {family}_bbox)\ndisplay(image)"
        action = f"THOUGHT 0: I look at {', '.join(focus)}.\nACTION 0:\n```python\n{code}\n```"
        yield {"images": [path], "response": action}
    last = f"ANSWER: It is {answer}. FINAL ANSWER: {answer}. TERMINATE"
    yield {"response": last} | ({} if focus else {"images": [path]})


def _add_table(
    fixture: Fixture, rng: random.Random, data: _Numbers, test_set: str, number: int, questions: int
) -> None:
    indicator, names, years, values = data.countries(rng.randint(5, 9), rng.randint(2, 4))
    size = (rng.randrange(640, 761, 10), rng.randrange(440, 561, 10))
    cells = [["Country", *years], *([name, *map(str, row)] for name, row in zip(names, values, strict=True))]
    drawing = table(test_set, cells, size)
    path = f"{_FOLDERS[test_set]}/{number:04d}.png"
    fixture.pictures[path] = encoded(drawing.image, path)
    asked = _statements if test_set == "vtabfact" else _table_questions
    prefix = {"vwtq": "nt", "vwtq_syn": "nu", "vtabfact": "1"}[test_set]
    for i, (query, answer) in enumerate(asked(rng, indicator, names, years, values)[:questions]):
        figure_id = f"{prefix}-{number}-{i}"
        record: Record = {
            "figure_id": figure_id,
            "query": query,
            "prompt": f"{query} Answer the question with the table in the image.",
            "answer": answer,
            "figure_path": path,
            "column_headers": list(drawing.columns),
            "row_starters": list(drawing.labels),
            "columns_bbox": [fraction(box, drawing) for box in drawing.columns.values()],
            "rows_bbox": [fraction(box, drawing) for box in drawing.labels.values()],
            "table_bbox": fraction(drawing.area, drawing),
        }
        fixture.tests[test_set].append((figure_id, record))


def _table_questions(
    rng: random.Random, indicator: str, names: list[str], years: list[str], values: list[list[int]]
) -> list[tuple[str, str]]:
    row, column = rng.randrange(len(names)), rng.randrange(len(years))
    series = [each[column] for each in values]
    least_of_three = sorted(series)[-3]
    highest = [name for name, value in zip(names, series, strict=True) if value >= least_of_three]
    return [
        (f"what was the {indicator} of {names[row]} in {years[column]}?", str(series[row])),
        (f"which three countries had the highest {indicator} in {years[column]}?", "|||".join(highest)),
        (f"which country had the lowest {indicator} in {years[column]}?", names[series.index(min(series))]),
    ]


def _statements(
    rng: random.Random, indicator: str, names: list[str], years: list[str], values: list[list[int]]
) -> list[tuple[str, str]]:
    statements = []
    for i in range(3):
        row, column = rng.randrange(len(names)), rng.randrange(len(years))
        truth = (i + row) % 2
        bound = values[row][column] + (-3 if truth else 3)
        statements.append((f"{names[row]} had a {indicator} of more than {bound} in {years[column]}", str(truth)))
    return statements


def _add_panels(fixture: Fixture, rng: random.Random, data: _Numbers, number: str, questions: int) -> None:
    rows, columns = rng.choice([(2, 2), (2, 2), (1, 2), (2, 3)])
    series = [[data.history(5) for _ in range(columns)] for _ in range(rows)]
    plots = [[(years, values, f"{name}, {country}") for name, country, years, values in row] for row in series]
    path = f"{_FOLDERS['charxiv']}/{number}.jpg"
    size = (rng.randrange(860, 941, 10), 440 if rows == 1 else rng.randrange(660, 741, 10))
    fixture.pictures[path] = encoded(panels(plots, size), path)
    i, j = rng.randrange(rows), rng.randrange(columns)
    _, _, years, values = series[i][j]
    subplot = f"For the subplot at row {i + 1} and column {j + 1}"
    asked = [
        (f"{subplot}, what is the highest value?", str(max(values))),
        (f"{subplot}, in which year is the value lowest?", years[values.index(min(values))]),
        (f"{subplot}, what is the value in {years[0]}?", str(values[0])),
    ]
    for k, (prompt, answer) in enumerate(asked[:questions]):
        fixture.tests["charxiv"].append((f"{number}-{k}", {"prompt": prompt, "figure_path": path, "answer": answer}))


def fraction(box: Corners, drawing: Drawing) -> dict[str, float]:
    """Return a box in the format of the test files, in fractions of the image."""
    width, height = drawing.image.size
    left, top, right, bottom = box
    return {"x1": left / width, "y1": top / height, "x2": right / width, "y2": bottom / height}


def pixels(box: Corners) -> dict[str, int]:
    """Return a box in the format of the training data, in pixels."""
    left, top, right, bottom = map(round, box)
    return {"x1": left, "y1": top, "x2": right, "y2": bottom}
