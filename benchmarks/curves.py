"""Figures of a run: accuracy over training, rewards and calls, block shares, differences, the edited image's effect.

Marks differ by more than colour, for print and colour-blind readers, and text stays legible when a figure is set at
half a page's width. A figure whose data are missing states so in its place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from benchmarks.figures import save_figure

_WIDTH = 7.2
"""Width of every figure, inches; at half an A4 page's text width the fonts below shrink to 6 to 7 points."""
# Any, since matplotlib types the keys of its settings as literals.
_FONT_SIZES: Any = {
    "font.size": 14,
    "axes.titlesize": 15,
    "legend.fontsize": 13,
    "xtick.labelsize": 13,
    "ytick.labelsize": 13,
}
_SMOOTHING_STEPS = 5
"""Window of the moving average, training steps."""
_MAX_BANDS = 5
"""Most methods whose bands over seeds can be told apart; with more, the spread is drawn as bars."""
_COLOURS = plt.style.library["petroff10"]["axes.prop_cycle"].by_key()["color"]
"""Ten colours that colour-blind readers can tell apart (arXiv 2107.02270)."""
_DASHES: Sequence[str | tuple[int, tuple[float, ...]]] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
_MARKERS = "os^DvPX<>*hpd"

_DYNAMICS_TITLES = {
    "rewards/outcome_reward/mean": "outcome reward",
    "tools/call_rate": "rollouts with a tool call",
    "tools/success_rate": "calls that succeed",
    "alignment/penalty": "attribution penalty",
}
_SHARE_TITLES = {
    "attribution/share_P": "plain text (P)",
    "attribution/share_R": "request (R)",
    "attribution/share_I": "image (I)",
    "attribution/share_T": "tool definitions (T)",
}


def learning_curves(metrics: pd.DataFrame, path: Path) -> None:
    """Plot dev accuracy over training: one panel for each method, with its runs, before all others' means in grey.

    Args:
        metrics: one row per ``method``, ``seed`` and ``step``, with the columns of ``metrics.csv``.
        path: path of the PNG to write.
    """
    if "dev/accuracy" not in metrics or metrics["dev/accuracy"].isna().all():
        _write_placeholder("dev accuracy was not measured (train.dev_every)", path)
        return
    measured = metrics.dropna(subset=["dev/accuracy"])
    runs = {
        name: 100 * rows.pivot(index="step", columns="seed", values="dev/accuracy").sort_index()
        for name, rows in measured.groupby("method", sort=False)
    }
    columns = min(_PANELS_A_ROW, len(runs))
    rows = -(-len(runs) // columns)
    with plt.rc_context(_FONT_SIZES):
        figure, axes = plt.subplots(
            rows,
            columns,
            figsize=(_WIDTH, 1.75 * rows + 1),
            layout="constrained",
            squeeze=False,
            sharex=True,
            sharey=True,
        )
        for place, (axis, name) in enumerate(zip(axes.flat, runs, strict=False)):
            for other in runs.values():
                axis.plot(other.index, other.mean(axis=1), color="0.8", linewidth=1)
            axis.plot(runs[name].index, runs[name], color=_COLOURS[0], linewidth=1, alpha=0.45)
            axis.plot(runs[name].index, runs[name].mean(axis=1), color=_COLOURS[0], linewidth=2.8)
            axis.set_title(name, fontsize=_FONT_SIZES["font.size"] - 1)
            axis.grid(color="0.93")
            # The panel below may be missing.
            axis.tick_params(labelbottom=place + columns >= len(runs))
        for axis in axes.flat[len(runs) :]:
            axis.remove()
        figure.supxlabel("training step", fontsize=_FONT_SIZES["font.size"])
        figure.supylabel("dev accuracy, %", fontsize=_FONT_SIZES["font.size"])
        handles = [
            Line2D([], [], color=_COLOURS[0], linewidth=2.8, label="mean"),
            Line2D([], [], color=_COLOURS[0], linewidth=1, alpha=0.45, label="each run"),
            Line2D([], [], color="0.8", linewidth=1, label="other methods' means"),
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=3, frameon=False, columnspacing=1.2)
        save_figure(figure, path)


_PANELS_A_ROW = 3


def dynamics(metrics: pd.DataFrame, path: Path, *, highlighted: Sequence[str] = ()) -> None:
    """Plot outcome reward, tool-call rate, success rate and penalty over training, one line per method.

    Args:
        metrics: as for :func:`learning_curves`. Steps without calls are left out of the success rate.
        path: path of the PNG to write.
        highlighted: methods that stand out where there are too many for their spreads to be told apart; the others
            are grey then. All stand out if none is named.
    """
    if "tools/success_rate" in metrics and "tools/call_rate" in metrics:
        called = metrics["tools/call_rate"] > 0
        metrics = metrics.assign(**{"tools/success_rate": metrics["tools/success_rate"].where(called)})
    _over_steps(metrics, _DYNAMICS_TITLES, path, highlighted, missing="no training was recorded")


def block_shares(metrics: pd.DataFrame, path: Path, *, highlighted: Sequence[str] = ()) -> None:
    """Plot each block's share in the attribution of calls over training, for the methods that attribute calls.

    Args:
        metrics: as for :func:`learning_curves`; a method has the same colour and marker as in :func:`dynamics`.
        path: path of the PNG to write.
        highlighted: as for :func:`dynamics`.
    """
    missing = "no method attributes its calls: there are no block shares"
    _over_steps(metrics, _SHARE_TITLES, path, highlighted, missing=missing)


def forest(differences: pd.DataFrame, path: Path) -> None:
    """Plot accuracy differences with their confidence intervals (a forest plot), in the order given.

    One wide interval does not set the axis: it is cut there, with an arrow where it goes on.

    Args:
        differences: columns ``method``; ``delta``, ``low``, ``high`` as fractions; ``verdict`` ("better", "worse",
            anything else for no difference); and optionally ``detectable``, the smallest detectable difference,
            ``group``, the heading that rows stand under, and ``runs``, each run's difference [S].
        path: path of the PNG to write.
    """
    if differences.empty:
        _write_placeholder("no differences: no method was compared with another", path)
        return
    points = differences.assign(**{name: 100 * differences[name] for name in ("delta", "low", "high")})
    labels, places = _places(points)
    limit = _axis_limit(points)
    with plt.rc_context(_FONT_SIZES):
        figure, axis = plt.subplots(figsize=(_WIDTH, 2.3 + 0.36 * len(labels)), layout="constrained")
        handles = _detectable_band(axis, points, places)
        axis.axvline(0, color="0.3", linewidth=1)
        for verdict, line_style in _VERDICT_STYLES.items():
            of_kind = points["verdict"].where(points["verdict"].isin(["better", "worse"]), "neither shown") == verdict
            rows = points[of_kind]
            delta, low, high = rows[["delta", "low", "high"]].to_numpy(float).T
            axis.errorbar(
                delta, places[of_kind], xerr=[delta - low, high - delta], linestyle="none", capsize=4, **line_style
            )
            handles.append(Line2D([], [], linestyle="none", label=verdict, **line_style))
        if "runs" in points:
            for place, runs in zip(places, points["runs"], strict=True):
                axis.plot(100 * np.asarray(runs), np.full(len(runs), place + 0.3), **_RUN_STYLE)
            handles.append(Line2D([], [], **_RUN_STYLE, label="each run"))
        for column, side, marker in (("low", -1, "<"), ("high", 1, ">")):
            beyond = (side * points[column] > limit).to_numpy()
            if beyond.any():
                axis.plot(np.full(beyond.sum(), 0.98 * side * limit), places[beyond], marker, color="0.2", zorder=5)
        axis.set(xlim=(-limit, limit), xlabel="accuracy points")
        _name_rows(axis, pd.Series(labels))
        for place in set(range(len(labels))) - set(places.tolist()):
            axis.get_yticklabels()[place].set_fontweight("bold")
        numbers = axis.twinx()
        numbers.set_ylim(axis.get_ylim())
        numbers.set_yticks(places, [f"{row.delta:+.1f}".replace("-", "−") for row in points.itertuples()])
        numbers.tick_params(length=0)
        figure.legend(handles=handles, loc="outside upper center", ncols=2, frameon=False)
        save_figure(figure, path)


_RUN_STYLE: Mapping[str, Any] = {"linestyle": "none", "marker": ".", "color": "0.45", "markersize": 5}


def _places(points: pd.DataFrame) -> tuple[list[str], NDArray[np.intp]]:
    """Names along the axis, headings among them, and the place of each row."""
    labels: list[str] = []
    places = []
    group = None
    for row in points.to_dict("records"):
        if row.get("group") != group:
            group = row["group"]
            labels.append(str(group))
        places.append(len(labels))
        labels.append(str(row["method"]))
    return labels, np.array(places, dtype=np.intp)


def _axis_limit(points: pd.DataFrame) -> float:
    """Half the width of the axis in points: the farthest end of an interval, but no more than thrice the usual one."""
    reach = np.abs(points[["low", "high"]].to_numpy(float)).max(axis=1)
    limit = min(reach.max(), 3 * float(np.median(reach)))
    if "detectable" in points:
        limits = 100 * points["detectable"].to_numpy(float)
        # The band of a comparison without power is far wider than everything else and would squeeze the plot.
        limit = max([limit, *limits[limits <= 2 * limit]])
    return float(1.05 * limit)


def _detectable_band(axis: Axes, points: pd.DataFrame, places: NDArray[np.intp]) -> list[Artist]:
    """Draw what each comparison could not have found, and return its legend."""
    if "detectable" not in points:
        return []
    limits = 100 * points["detectable"].to_numpy(float)
    axis.barh(places, 2 * limits, left=-limits, height=0.8, color="0.9")
    return [Patch(color="0.9", label="below the smallest detectable")]


_VERDICT_STYLES: Mapping[str, Mapping[str, Any]] = {
    "better": {"marker": "^", "color": _COLOURS[0], "markersize": 10},
    "worse": {"marker": "v", "color": _COLOURS[2], "markersize": 10},
    "neither shown": {"marker": "o", "color": "0.3", "markersize": 8, "markerfacecolor": "white"},
}


def image_help(table: pd.DataFrame, path: Path) -> None:
    """Plot accuracy with the edited image, with the original image returned in its place, and without tools.

    Args:
        table: columns ``method``, ``accuracy``, ``accuracy_original``, ``accuracy_off`` as fractions, in plot order.
        path: path of the PNG to write.
    """
    if table.empty:
        _write_placeholder("no evaluation with the original image and without tools (evaluation.image_help)", path)
        return
    with plt.rc_context(_FONT_SIZES):
        figure, axis = plt.subplots(figsize=(_WIDTH, 2.1 + 0.5 * len(table)), layout="constrained")
        for i, (column, line_style) in enumerate(_ANSWER_STYLES.items()):
            # Offset vertically, since equal accuracies would hide each other.
            axis.plot(100 * table[column], np.arange(len(table)) + 0.24 * (i - 1), linestyle="none", **line_style)
        for place in range(1, len(table)):
            axis.axhline(place - 0.5, color="0.85", linewidth=1)
        axis.set(xlabel="accuracy, %")
        axis.grid(axis="x", color="0.9")
        axis.set_axisbelow(True)
        _name_rows(axis, table["method"])
        figure.legend(loc="outside upper center", ncols=1, frameon=False)
        save_figure(figure, path)


_ANSWER_STYLES: Mapping[str, Mapping[str, Any]] = {
    "accuracy": {"marker": "o", "color": _COLOURS[0], "markersize": 9, "label": "with the edited image"},
    "accuracy_original": {
        "marker": "D",
        "color": _COLOURS[2],
        "markersize": 7,
        "markerfacecolor": "white",
        "label": "same call, original image returned",
    },
    "accuracy_off": {"marker": "x", "color": "0.2", "markersize": 9, "markeredgewidth": 2, "label": "without tools"},
}


def _over_steps(
    metrics: pd.DataFrame, panels: Mapping[str, str], path: Path, highlighted: Sequence[str], *, missing: str
) -> None:
    """One panel per column that any method has, one line per method with the spread over its seeds."""
    shown = [column for column in panels if column in metrics and metrics[column].notna().any()]
    if not shown:
        _write_placeholder(missing, path)
        return
    recorded = metrics[metrics[shown].notna().any(axis=1)]
    # Styles are assigned by position among all methods, so that a method looks the same in every figure.
    styles = {name: _style(i) for i, name in enumerate(dict.fromkeys(metrics["method"]))}
    styles = {name: styles[name] for name in dict.fromkeys(recorded["method"])}
    crowded = len(styles) > _MAX_BANDS
    grey = [name for name in styles if crowded and highlighted and name not in highlighted]
    behind = recorded[recorded["method"].isin(grey)]
    styles = {name: line_style for name, line_style in styles.items() if name not in grey}
    crowded = len(styles) > _MAX_BANDS
    columns = 1 if crowded else 2
    # About 56 characters fit side by side in the legend.
    legend_columns = max(1, min(3, 56 // (max(map(len, styles)) + 1)))
    rows, legend_rows = -(-len(shown) // columns), -(-(len(styles) + bool(grey)) // legend_columns)
    size = (_WIDTH, 2.9 * rows + 0.28 * legend_rows + 0.5)
    with plt.rc_context(_FONT_SIZES):
        figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
        for axis, column in zip(axes.flat, shown, strict=False):
            for _, rows_of_one in behind.groupby("method", sort=False):
                smooth = _smoothed(rows_of_one, column).mean(axis=1)
                axis.plot(smooth.index, smooth, color="0.8", linewidth=1)
            for i, (name, line_style) in enumerate(styles.items()):
                _draw_line(
                    axis, recorded[recorded["method"] == name], column, line_style, i / len(styles), bars=crowded
                )
            axis.set(title=panels[column], xlabel="step" if column in shown[-columns:] else None)
            axis.grid(color="0.92")
        for axis in axes.flat[len(shown) :]:
            axis.remove()
        figure.legend(
            handles=[
                *(Line2D([], [], label=name, **line_style) for name, line_style in styles.items()),
                *([Line2D([], [], label="the others", color="0.8", linewidth=1)] if grey else []),
            ],
            loc="outside lower center",
            ncols=legend_columns,
            frameon=False,
            columnspacing=1.2,
            handlelength=2.6,
            title=f"mean over seeds, {_SMOOTHING_STEPS}-step average; "
            f"{'bars' if crowded else 'band'}: lowest to highest seed",
        )
        save_figure(figure, path)


def _draw_line(
    axis: Axes, rows: pd.DataFrame, column: str, line_style: Mapping[str, Any], phase: float, *, bars: bool
) -> None:
    """Draw the mean over seeds, with the spread as bars at the markers or as a band.

    ``phase`` in [0, 1) shifts the markers, so that those of different methods do not cover each other.
    """
    smooth = _smoothed(rows, column)
    steps, mean = smooth.index.to_numpy(), smooth.mean(axis=1).to_numpy()
    low, high = smooth.min(axis=1).to_numpy(), smooth.max(axis=1).to_numpy()
    every = max(1, len(steps) // 4)
    start = int(phase * every)
    if bars:
        marked = slice(start, None, every)
        axis.vlines(steps[marked], low[marked], high[marked], color=line_style["color"], linewidth=1.5)
    else:
        axis.fill_between(steps, low, high, color=line_style["color"], alpha=0.15, linewidth=0)
    axis.plot(steps, mean, markevery=(start, every), **line_style)


def _smoothed(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """Moving average of a metric, one column per seed."""
    by_seed = rows.pivot(index="step", columns="seed", values=column).sort_index()
    return by_seed.rolling(_SMOOTHING_STEPS, center=True, min_periods=1).mean()


def _style(i: int) -> dict[str, Any]:
    """Line style of the i-th method; the first 52 differ even without colour."""
    return {
        "color": _COLOURS[i % len(_COLOURS)],
        "linestyle": _DASHES[i % len(_DASHES)],
        "linewidth": 1.8,
        "marker": _MARKERS[i % len(_MARKERS)],
        "markersize": 8,
        "markeredgecolor": "0.15",
        "markeredgewidth": 0.6,
    }


def _name_rows(axis: Axes, names: pd.Series) -> None:
    """Write the names along the left axis, the first at the top."""
    axis.set_yticks(np.arange(len(names)), list(names))
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.tick_params(axis="y", length=0)


def _write_placeholder(sentence: str, path: Path) -> None:
    figure = Figure(figsize=(_WIDTH, 1.2))
    figure.text(0.5, 0.5, sentence, ha="center", va="center", wrap=True, fontsize=_FONT_SIZES["font.size"])
    save_figure(figure, path)
