"""One page of plots that summarises the audit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

from benchmarks.audit.cache import CacheAudit
from benchmarks.figures import save_figure
from iapo.alignment.divergence import distribution
from iapo.types import BLOCKS

_MAX_ERROR = 0.02
"""Largest acceptable mean total variation from the converged shares, at the configured integration steps."""


def draw(
    audits: Mapping[str, CacheAudit],
    errors: Mapping[str, NDArray[np.float64]],
    options: pd.DataFrame,
    metrics: pd.DataFrame,
    path: Path,
) -> None:
    """Plot completeness, integration error, block shares, cache agreement, penalties and options, a panel each.

    Args:
        audits: stage of training → comparison of the cache with the live teacher.
        errors: policy → total variation from the converged attribution, per prompt.
        options: rows of :func:`benchmarks.audit.teachers.compare_options`.
        metrics: training metrics of the audited method, per step and seed.
        path: path of the PNG to write.
    """
    figure, axes = plt.subplots(2, 3, figsize=(17, 10), layout="constrained")
    latest = list(audits)[-1]
    _completeness(axes[0, 0], audits)
    _error(axes[0, 1], errors)
    _shares(axes[0, 2], metrics, audits[latest])
    _scatter(axes[1, 0], audits[latest], latest)
    _penalties(axes[1, 1], audits[latest], latest)
    _options(axes[1, 2], options)
    save_figure(figure, path)


def _completeness(axis: Axes, audits: Mapping[str, CacheAudit]) -> None:
    series = {f"student, {stage}": audit.student for stage, audit in audits.items()}
    series["teacher"] = next(iter(audits.values())).teacher
    for name, scored in series.items():
        values = np.sort(scored.result.convergence_delta.cpu().numpy())
        axis.plot(values, np.linspace(0, 1, len(values)), label=name)
    axis.set(xlabel="convergence delta", ylabel="share of calls below", title="Completeness", xlim=(0, 0.5))
    axis.legend()


def _error(axis: Axes, errors: Mapping[str, NDArray[np.float64]]) -> None:
    for name, values in errors.items():
        axis.plot(np.sort(values), np.linspace(0, 1, len(values)), label=name)
    axis.axvline(0.05, color="grey", linewidth=1, linestyle="--")
    axis.set(xlabel="total variation from the converged shares", ylabel="share of calls below", title="Error")
    axis.legend()


def _shares(axis: Axes, metrics: pd.DataFrame, audit: CacheAudit) -> None:
    teacher = distribution(audit.teacher.result.signed, 0.0).mean(0).tolist()
    for i, (block, share) in enumerate(zip(BLOCKS, teacher, strict=False)):
        column = f"attribution/share_{block}"
        if column in metrics:
            mean = metrics.groupby("step")[column].mean()
            axis.plot(mean.index, mean, color=f"C{i}", label=f"{block} student")
        axis.axhline(share, color=f"C{i}", linestyle="--", linewidth=1, label=f"{block} teacher")
    axis.set(xlabel="step", ylabel="share", title="Block shares over training")
    axis.legend(fontsize=8, ncols=2)


def _scatter(axis: Axes, audit: CacheAudit, stage: str) -> None:
    axis.scatter(audit.live, audit.cached, s=10, alpha=0.5)
    top = max([*audit.live, *audit.cached])
    axis.plot([0, top], [0, top], color="grey", linewidth=1)
    title = f"Penalty, {stage}: r within groups {audit.within_group_r:.3f}"
    axis.set(xlabel="live teacher", ylabel="cached teacher", title=title)


def _penalties(axis: Axes, audit: CacheAudit, stage: str) -> None:
    live, correct = np.array(audit.live), np.array(audit.correct, dtype=bool)
    bins = np.linspace(0, max(live.max(), 1e-6), 25).tolist()
    axis.hist([live[correct], live[~correct]], bins=bins, density=True, label=["right calls", "wrong calls"])
    axis.set(xlabel="penalty", ylabel="density", title=f"Penalty of right and wrong calls, {stage}")
    axis.legend()


def _options(axis: Axes, options: pd.DataFrame) -> None:
    names = list(dict.fromkeys(options["option"]))
    rough = set(options["option"][options["tv_mean"] > _MAX_ERROR])
    for i, (seed, rows) in enumerate(options.groupby("teacher_seed")):
        auc = rows.set_index("option")["auc"].reindex(names)
        faces = ["none" if name in rough else f"C{i}" for name in names]
        axis.scatter(auc, range(len(names)), c=faces, edgecolors=f"C{i}", label=f"teacher {seed}")
    axis.axvline(0.5, color="grey", linewidth=1)
    title = f"Options, dev split (hollow: shares err by more than {_MAX_ERROR})"
    axis.set(yticks=range(len(names)), yticklabels=names, xlabel="within-group AUC", title=title)
    axis.invert_yaxis()
    axis.legend()
