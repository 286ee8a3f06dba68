"""One page of plots that summarises the mechanism study."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes

from benchmarks.figures import save_figure


def draw(records: pd.DataFrame, metrics: pd.DataFrame, compared: pd.DataFrame, path: Path) -> None:
    """Plot accuracy differences, block shares against behaviour, and the spread of each reward term within groups.

    Args:
        records: of :func:`benchmarks.mechanism.behaviour.measure`, all conditions, with ``condition`` and ``seed``.
        metrics: training metrics per step, with ``condition`` and ``seed``.
        compared: of :func:`benchmarks.mechanism.report.comparisons`.
        path: path of the PNG to write.
    """
    figure, axes = plt.subplots(2, 2, figsize=(13, 10), layout="constrained")
    _forest(axes[0, 0], compared[compared["outcome"] == "score"])
    _shares(axes[0, 1], records)
    _spread(axes[1, 0], metrics, "std", "standard deviation within groups")
    _spread(axes[1, 1], metrics, "share", "share in the advantage")
    # One legend for both panels, below them so that it hides no line.
    figure.legend(*axes[1, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    save_figure(figure, path)


def _forest(axis: Axes, compared: pd.DataFrame) -> None:
    names = [f"{row.condition} − {row.control}" for row in compared.itertuples(index=False)]
    places = range(len(names))
    gaps = [100 * (compared["delta"] - compared["low"]), 100 * (compared["high"] - compared["delta"])]
    axis.errorbar(100 * compared["delta"], places, xerr=gaps, fmt="o", capsize=3)
    axis.axvline(0, color="grey", linewidth=1)
    axis.set(yticks=list(places), yticklabels=names, xlabel="points", title="Test accuracy against controls")
    axis.invert_yaxis()


def _shares(axis: Axes, records: pd.DataFrame) -> None:
    called = records.dropna(subset=["share_R"]).astype({"flips_with_request": float, "share_R": float})
    means = called.groupby(["condition", "seed"], sort=False)[["share_R", "flips_with_request"]].mean().reset_index()
    for i, (condition, rows) in enumerate(means.groupby("condition", sort=False)):
        marker = "os^Dv"[i // 10 % 5]
        axis.scatter(rows["share_R"], rows["flips_with_request"], label=str(condition), marker=marker)
    axis.set(
        xlabel="share of the request in the call's attribution",
        ylabel="calls that follow an edited request",
        title="Does a larger share mean more reliance?",
    )
    axis.legend(fontsize=7, ncols=2)


def _spread(axis: Axes, metrics: pd.DataFrame, suffix: str, what: str) -> None:
    wanted = {"vtool_r1": "outcome_reward", "planted_penalty": "wrong_call_penalty", "iapo": "alignment_reward"}
    wanted |= {
        name: "alignment_reward"
        for name in metrics["condition"].unique()
        if name in ("labels", "contrastive", "batch", "warm", "turn")
    }
    for name, part in wanted.items():
        rows = metrics[metrics["condition"] == name]
        column = f"advantage/{part}_{suffix}"
        if column in rows and rows[column].notna().any():
            mean = rows.groupby("step")[column].mean().rolling(3, min_periods=1).mean()
            axis.plot(mean.index, mean, label=f"{name}: {part.replace('_', ' ')}")
    axis.set(xlabel="step", ylabel=what, title=f"Reward parts: {what}")
