"""The figures: what is drawn, that it can be told apart and read, and that equal data are equal bytes."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import FillBetweenPolyCollection
from matplotlib.figure import Figure
from matplotlib.text import Text

from benchmarks import curves

HALF_PAGE = 3.15
"""Inches: half the text width of an A4 page."""
METHODS = [f"a_rather_long_name_{i}" for i in range(14)]
Draw = Callable[[Path], None]


def training(methods: list[str], *, attributed: int | None = None, steps: int = 30) -> pd.DataFrame:
    """Metrics of three seeds a method; only the first ``attributed`` have penalties and shares."""
    rng = np.random.default_rng(0)
    frames = []
    for i, method in enumerate(methods):
        for seed in range(3):
            figures = {
                "rewards/outcome_reward/mean": rng.uniform(0.3, 0.6, steps),
                "tools/call_rate": rng.uniform(0.5, 1, steps),
                "tools/success_rate": rng.uniform(0.5, 1, steps),
            }
            if attributed is None or i < attributed:
                figures["alignment/penalty"] = rng.uniform(0, 0.3, steps)
                figures |= {f"attribution/share_{block}": rng.uniform(0, 0.5, steps) for block in "PRIT"}
            frames.append(pd.DataFrame({"method": method, "seed": seed, "step": np.arange(1, steps + 1), **figures}))
    return pd.concat(frames, ignore_index=True)


def learned(methods: list[str]) -> pd.DataFrame:
    """Metrics with dev accuracy every tenth step, and a step 0 that has nothing else."""
    metrics = training(methods)
    start = metrics[["method", "seed"]].drop_duplicates().assign(step=0)
    metrics = pd.concat([start, metrics], ignore_index=True)
    accuracy = 0.2 + 0.01 * metrics["step"] + 0.1 * metrics["seed"] ** 2
    return metrics.assign(**{"dev/accuracy": accuracy.where(metrics["step"] % 10 == 0)})


def compared(count: int) -> pd.DataFrame:
    deltas = np.linspace(-0.06, 0.07, count)
    return pd.DataFrame(
        {
            "method": METHODS[:count],
            "delta": deltas,
            "low": deltas - 0.03,
            "high": deltas + 0.04,
            "verdict": [
                "worse" if delta < -0.04 else "better" if delta > 0.03 else "no difference found (could have found …)"
                for delta in deltas
            ],
            "detectable": 0.05,
        }
    )


def helped(count: int) -> pd.DataFrame:
    accuracy = np.linspace(0.5, 0.7, count)
    return pd.DataFrame(
        {
            "method": METHODS[:count],
            "accuracy": accuracy,
            "accuracy_original": accuracy - 0.03,
            "accuracy_off": accuracy - 0.1,
        }
    )


ALL: dict[str, Draw] = {
    "learning_curves": lambda path: curves.learning_curves(learned(METHODS), path),
    "dynamics": lambda path: curves.dynamics(training(METHODS), path),
    "few_dynamics": lambda path: curves.dynamics(training(METHODS[:3]), path),
    "block_shares": lambda path: curves.block_shares(training(METHODS, attributed=4), path),
    "forest": lambda path: curves.forest(compared(13), path),
    "image_help": lambda path: curves.image_help(helped(14), path),
}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Draw], Figure]:
    """Draws a figure, writes it, and keeps it to be looked at."""
    kept: list[Figure] = []
    save = curves.save_figure

    def keep(figure: Figure, path: Path) -> None:
        save(figure, path)
        kept.append(figure)

    monkeypatch.setattr(curves, "save_figure", keep)

    def draw(function: Draw) -> Figure:
        function(tmp_path / "figure.png")
        return kept[-1]

    return draw


def test_the_same_data_give_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    for name, draw in ALL.items():
        draw(tmp_path / f"{name}.png")
    again = tmp_path / "again"
    code = f"import test_figures as t; [draw(t.Path({str(again)!r}, name + '.png')) for name, draw in t.ALL.items()]"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent), "PYTHONHASHSEED": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    for name in ALL:
        here, there = (folder / f"{name}.png" for folder in (tmp_path, again))
        assert here.read_bytes() == there.read_bytes(), name


@pytest.mark.parametrize("name", ALL)
def test_text_is_readable_at_half_a_page_and_stays_inside(name: str, drawn: Callable[[Draw], Figure]) -> None:
    figure = drawn(ALL[name])
    shrunk = HALF_PAGE / figure.get_figwidth()
    texts = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    assert len(texts) > 10
    assert min(text.get_fontsize() for text in texts) * shrunk >= 5.5
    figure.draw_without_rendering()
    drawn_box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert min(drawn_box.x0, drawn_box.y0, width - drawn_box.x1, height - drawn_box.y1) >= 0


def test_methods_differ_without_colour(drawn: Callable[[Draw], Figure]) -> None:
    lines = drawn(ALL["dynamics"]).axes[0].lines
    looks = {(str(line._dash_pattern), line.get_marker()) for line in lines}  # type: ignore[attr-defined]
    assert len(looks) == len(lines) == len(METHODS)


def test_a_method_looks_the_same_in_every_figure(drawn: Callable[[Draw], Figure]) -> None:
    metrics = training(METHODS[:5])
    shares = [f"attribution/share_{block}" for block in "PRIT"]
    metrics.loc[metrics["method"].isin(METHODS[:3]), shares] = np.nan
    curve = drawn(lambda path: curves.dynamics(metrics, path)).axes[0]
    share = drawn(lambda path: curves.block_shares(metrics, path)).axes[0]
    looks = [[(line.get_color(), line.get_marker()) for line in axis.lines] for axis in (curve, share)]
    assert looks[0][3:] == looks[1]


def test_a_line_is_the_mean_over_seeds_and_the_band_their_range(drawn: Callable[[Draw], Figure]) -> None:
    metrics = training(["iapo"]).assign(**{"rewards/outcome_reward/mean": lambda rows: 0.2 + 0.1 * rows["seed"] ** 2})
    axis = drawn(lambda path: curves.dynamics(metrics, path)).axes[0]
    assert axis.get_title() == "outcome reward"
    assert np.allclose(axis.lines[0].get_ydata(), 0.2 + 0.5 / 3)
    (band,) = (each for each in axis.collections if isinstance(each, FillBetweenPolyCollection))
    assert np.allclose(band.get_paths()[0].get_extents().intervaly, [0.2, 0.6])


def test_spread_of_many_methods_is_bars_at_their_markers(drawn: Callable[[Draw], Figure]) -> None:
    axis = drawn(ALL["dynamics"]).axes[0]
    assert not [each for each in axis.collections if isinstance(each, FillBetweenPolyCollection)]
    first = axis.collections[0].get_segments()  # type: ignore[attr-defined]
    line = axis.lines[0]
    marked = dict(zip(np.asarray(line.get_xdata()), np.asarray(line.get_ydata()), strict=True))
    start, every = line.get_markevery()  # type: ignore[misc]
    assert [bar[0][0] for bar in first] == list(marked)[start::every]
    assert all(bar[0][1] < marked[bar[0][0]] < bar[1][1] for bar in first)


def test_steps_without_calls_have_no_success_rate(drawn: Callable[[Draw], Figure]) -> None:
    metrics = training(["iapo"]).assign(**{"tools/success_rate": 0.9})
    metrics.loc[metrics["step"] > 15, ["tools/call_rate", "tools/success_rate"]] = 0.0
    axes = {axis.get_title(): axis for axis in drawn(lambda path: curves.dynamics(metrics, path)).axes}
    rate = np.asarray(axes["calls that succeed"].lines[0].get_ydata())
    assert np.allclose(rate[:15], 0.9) and np.isnan(rate[-1])


def test_a_forest_has_points_in_the_order_given_marked_by_verdict(drawn: Callable[[Draw], Figure]) -> None:
    table = compared(13).iloc[::-1]
    figure = drawn(lambda path: curves.forest(table, path))
    axis = figure.axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == list(table["method"])
    assert axis.get_ylim()[0] > axis.get_ylim()[1]
    assert axis.get_xlabel() == "accuracy points"
    marks = {
        (float(x), int(y)): container[0].get_marker()
        for container in axis.containers
        if hasattr(container, "has_xerr")
        for x, y in zip(container[0].get_xdata(), container[0].get_ydata(), strict=True)
    }
    expected = {"better": "^", "worse": "v"}
    rows = enumerate(table.itertuples())
    assert marks == {(100 * row.delta, place): expected.get(row.verdict, "o") for place, row in rows}
    lines = [line for container in axis.containers if hasattr(container, "has_xerr") for line in container[2]]
    intervals = {place: segment[:, 0] for line in lines for segment in line.get_segments() for place in segment[:1, 1]}
    for place, row in enumerate(table.itertuples()):
        assert np.allclose(intervals[place], [100 * row.low, 100 * row.high])
    assert {round(bar.get_width(), 6) for bar in axis.patches} == {10.0}


@pytest.mark.parametrize(("detectable", "widest"), [(0.12, 12), (30.0, 11)], ids=["a little wider", "none"])
def test_a_forest_shows_intervals_whatever_was_detectable(
    detectable: float, widest: float, drawn: Callable[[Draw], Figure]
) -> None:
    axis = drawn(lambda path: curves.forest(compared(13).assign(detectable=detectable), path)).axes[0]
    low, high = axis.get_xlim()
    assert low == -high and widest < high < 1.1 * widest


def test_image_help_has_three_marks_a_method_in_percent(drawn: Callable[[Draw], Figure]) -> None:
    table = helped(4)
    axis = drawn(lambda path: curves.image_help(table, path)).axes[0]
    marks = axis.lines[:3]
    assert len({mark.get_marker() for mark in marks}) == 3
    for mark, column in zip(marks, ["accuracy", "accuracy_original", "accuracy_off"], strict=True):
        assert np.allclose(mark.get_xdata(), 100 * table[column])
        assert list(np.round(np.asarray(mark.get_ydata(), float))) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("draw", "words"),
    [
        (lambda path: curves.dynamics(pd.DataFrame(), path), "no training"),
        (lambda path: curves.learning_curves(training(METHODS[:2]), path), "train.dev_every"),
        (lambda path: curves.block_shares(training(METHODS[:2], attributed=0), path), "no block shares"),
        (lambda path: curves.forest(compared(3).iloc[:0], path), "no differences"),
        (lambda path: curves.image_help(helped(3).iloc[:0], path), "evaluation.image_help"),
    ],
)
def test_a_figure_without_data_says_so(draw: Draw, words: str, drawn: Callable[[Draw], Figure], tmp_path: Path) -> None:
    assert words in drawn(draw).texts[0].get_text()
    assert (tmp_path / "figure.png").stat().st_size > 1000


def test_each_method_has_a_panel_before_the_others_in_grey(drawn: Callable[[Draw], Figure]) -> None:
    axes = drawn(ALL["learning_curves"]).axes
    assert [axis.get_title() for axis in axes] == METHODS
    for axis in axes:
        *others, first, second, third, mean = axis.lines
        assert len(others) == len(METHODS) and {line.get_color() for line in others} == {"0.8"}
        assert mean.get_linewidth() > 2 * first.get_linewidth() and mean.get_color() == first.get_color()
        assert np.allclose(mean.get_xdata(), [0, 10, 20, 30])
        assert np.allclose(mean.get_ydata(), 100 * (0.2 + 0.5 / 3) + np.array([0, 10, 20, 30]))
        assert np.allclose(third.get_ydata(), second.get_ydata() + 30)


def test_only_the_highlighted_of_many_methods_have_colours(drawn: Callable[[Draw], Figure]) -> None:
    draw = lambda path: curves.dynamics(training(METHODS), path, highlighted=METHODS[3:6])  # noqa: E731
    figure = drawn(draw)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [*METHODS[3:6], "the others"]
    colours = [line.get_color() for line in figure.axes[0].lines]
    assert colours.count("0.8") == 11 and len(set(colours)) == 4
    few = drawn(lambda path: curves.dynamics(training(METHODS[:4]), path, highlighted=METHODS[:1]))
    assert len(few.legends[0].get_texts()) == 4


def test_one_collapsed_row_does_not_set_the_axis(drawn: Callable[[Draw], Figure]) -> None:
    table = compared(13).drop(columns="detectable")
    table.loc[12, ["delta", "low", "high"]] = [-0.4, -1.0, 0.9]
    axis = drawn(lambda path: curves.forest(table, path)).axes[0]
    assert 10 < axis.get_xlim()[1] < 30
    arrows = {(line.get_marker(), *np.asarray(line.get_ydata())) for line in axis.lines if line.get_marker() in "<>"}
    assert arrows == {("<", 12), (">", 12)}


def test_rows_stand_under_their_heading_with_every_run(drawn: Callable[[Draw], Figure]) -> None:
    table = compared(4).assign(group=["first", "first", "second", "second"], runs=[[0.01, 0.02]] * 4)
    axis = drawn(lambda path: curves.forest(table, path)).axes[0]
    names = [label.get_text() for label in axis.get_yticklabels()]
    assert names == ["first", *METHODS[:2], "second", *METHODS[2:4]]
    dots = [line for line in axis.lines if line.get_marker() == "."]
    assert [list(np.asarray(line.get_xdata())) for line in dots] == [[1, 2]] * 4
    assert [round(float(np.asarray(line.get_ydata())[0]) - 0.3) for line in dots] == [1, 2, 4, 5]
