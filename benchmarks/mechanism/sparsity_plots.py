"""Learning curves of the study's sparse half as small multiples: rows are starts, columns settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from benchmarks.figures import save_figure
from benchmarks.mechanism.sparsity import SparseStudy
from iapo.config.variants import Cell

_COLUMNS = 3
_PANEL = (2.5, 1.9)
"""Width and height of a panel, inches."""
_COLOURS = plt.style.library["petroff10"]["axes.prop_cycle"].by_key()["color"]
"""Ten colours that colour-blind readers can tell apart (arXiv 2107.02270)."""
_STYLES: tuple[Mapping[str, Any], ...] = (
    {"color": "0.25", "linestyle": "-", "marker": "o"},
    {"color": _COLOURS[0], "linestyle": "-", "marker": "s"},
    {"color": _COLOURS[1], "linestyle": "--", "marker": "D"},
    {"color": _COLOURS[2], "linestyle": "-.", "marker": "^"},
    {"color": _COLOURS[4], "linestyle": ":", "marker": "v"},
)
"""Of the methods in their order: they differ by more than colour."""


def draw(study: SparseStudy, path: Path) -> None:
    """Plot dev accuracy over training, a panel for each start and setting, and each run's test accuracy as dots.

    Args:
        study: the records.
        path: path of the PNG to write.
    """
    panels = list(_panels(study))
    rows = -(-len(panels) // _COLUMNS)
    methods = list(dict.fromkeys(cell.method for cell in study.cells))
    styles = {method: _STYLES[i % len(_STYLES)] for i, method in enumerate(methods)}
    size = (_PANEL[0] * _COLUMNS, _PANEL[1] * rows + 0.9)
    figure, axes = plt.subplots(
        rows, _COLUMNS, figsize=size, layout="constrained", squeeze=False, sharex=True, sharey="row"
    )
    for place, (axis, panel) in enumerate(zip(axes.flat, panels, strict=False)):
        if panel is None:
            axis.remove()
            continue
        start, setting = panel
        for cell in study.cells:
            if (cell.start, cell.setting) == panel:
                _draw_cell(axis, study, cell, styles[cell.method], methods.index(cell.method))
        axis.set_title(f"{start}: {setting}", fontsize=11)
        axis.grid(color="0.93")
        below = place + _COLUMNS
        axis.tick_params(labelbottom=below >= len(panels) or panels[below] is None)
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    figure.supxlabel("training step; dots behind the last one: test accuracy of each run")
    figure.supylabel("dev accuracy, %")
    handles = [Line2D([], [], label=method, markersize=5, **style) for method, style in styles.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=min(3, len(handles)), frameon=False)
    save_figure(figure, path)


def _panels(study: SparseStudy) -> Iterator[tuple[str, str] | None]:
    """Start and setting of each panel, row by row: a row of scalings for each start, then the forms; None is empty."""
    known = {(cell.start, cell.setting) for cell in study.cells}
    forms = [setting for setting in study.settings if setting not in study.scalings]
    for settings in (study.scalings, forms):
        for start in study.starts:
            found = [(start, setting) for setting in settings if (start, setting) in known]
            yield from found
            yield from [None] * (-len(found) % _COLUMNS)


def _draw_cell(axis: Axes, study: SparseStudy, cell: Cell, style: Mapping[str, Any], index: int) -> None:
    """Draw the mean of a cell's runs, thin lines for the runs, and their test accuracies to the right."""
    rows = study.metrics[study.metrics["condition"] == cell.name].dropna(subset=["dev/accuracy"])
    runs = 100 * rows.pivot(index="step", columns="seed", values="dev/accuracy").sort_index()
    if runs.empty:
        return
    axis.plot(runs.index, runs, color=style["color"], linewidth=0.7, alpha=0.4)
    axis.plot(runs.index, runs.mean(axis=1), linewidth=1.8, markersize=4, **style)
    last = float(runs.index.max())
    final = 100 * np.array(study.accuracy_by_seed(cell.name))
    place = np.full(len(final), last * (1.06 + 0.045 * index))
    axis.plot(place, final, linestyle="none", marker=style["marker"], markersize=3.5, color=style["color"], alpha=0.7)
