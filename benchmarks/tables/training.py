"""Tables on training: dynamics over steps, compute cost by method, and the search for reward weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.results import Results, metrics_path, records_path
from benchmarks.tables.render import each_value

DYNAMICS = {
    "dev_accuracy": "dev/accuracy",
    "dev_right_calls": "dev/right_calls",
    "outcome": "rewards/outcome_reward/mean",
    "call_rate": "tools/call_rate",
    "success_rate": "tools/success_rate",
    "penalty": "alignment/penalty",
    "flat_groups": "advantage/flat_groups",
}
"""Column of the table → column of a run's metrics."""

Row = dict[str, object]


def dynamics_table(results: Results) -> pd.DataFrame:
    """Compute mean, minimum and maximum over the seeds of each monitored metric, one row per method and step.

    Returns:
        Besides these, the same in every row of a method: ``dev_area``, the mean dev accuracy over the steps of a run
        (area under its curve, by trapezoids, over its length), and ``steps_to_target``, the first step measured at
        which dev accuracy is at least ``statistics.target_accuracy``: mean over the seeds, the second over those that
        got there, and every seed's value (``-`` for a run that did not). nan where dev accuracy was not measured.
    """
    found = {name: column for name, column in DYNAMICS.items() if column in results.metrics}
    if not found:
        return pd.DataFrame(columns=["method", "step", "n_seeds"])
    groups = results.metrics.groupby(["method", "step"], sort=False)
    columns = {
        f"{name}_{how}": groups[column].agg(how) for name, column in found.items() for how in ("mean", "min", "max")
    }
    table = pd.DataFrame({"n_seeds": groups["seed"].nunique(), **columns}).reset_index()
    if "dev/accuracy" not in results.metrics:
        return table
    measured = [_learning(name, rows, results) for name, rows in results.metrics.groupby("method", sort=False)]
    return table.merge(pd.DataFrame(measured), how="left", on="method")


def _learning(method: object, rows: pd.DataFrame, results: Results) -> Row:
    """How fast a method's runs learned, by their dev accuracy."""
    curves = [
        run.dropna(subset=["dev/accuracy"]).sort_values("step")[["step", "dev/accuracy"]].to_numpy().T
        for _, run in rows.groupby("seed")
    ]
    curves = [curve for curve in curves if curve.size]
    target = results.config.statistics.target_accuracy
    areas = [area_under(steps, accuracy) for steps, accuracy in curves]
    reached = [steps_to(target, steps, accuracy) for steps, accuracy in curves]
    known = [step for step in reached if step is not None]
    return {
        "method": method,
        "dev_area": float(np.mean(areas)) if areas else np.nan,
        "dev_area_by_seed": each_value(areas),
        "steps_to_target": float(np.mean(known)) if known else np.nan,
        "steps_to_target_by_seed": " ".join("-" if step is None else f"{step:g}" for step in reached),
    }


def area_under(steps: NDArray[np.float64], accuracy: NDArray[np.float64]) -> float:
    """Return the mean accuracy over the steps of a run, by trapezoids; with one measurement, that one.

    Args:
        steps: [M] at which it was measured, rising.
        accuracy: [M] in [0, 1].
    """
    if len(steps) == 1:
        return float(accuracy[0])
    return float(np.trapezoid(accuracy, steps) / (steps[-1] - steps[0]))


def steps_to(target: float, steps: NDArray[np.float64], accuracy: NDArray[np.float64]) -> float | None:
    """Return the first measured step [M] with at least this accuracy; None if there is none."""
    reached = steps[accuracy >= target]
    return float(reached[0]) if len(reached) else None


def cost_table(results: Results) -> pd.DataFrame:
    """Sum up the cost of each method's runs, and of the stages that all methods share.

    Returns:
        ``hours`` of all runs together on ``device`` (wall time × threads on a CPU, × GPUs on a GPU);
        ``seconds_per_run``, ``seconds_per_step``: medians; ``attribution_share``, ``verifier_share``: fractions of
        the training step time.
    """
    rows = [
        _cost(name, cost_records(results, name)) | _shares(results.metrics[results.metrics["method"] == name])
        for name in (*results.config.methods, *_SHARED, _EVALUATION)
    ]
    return pd.DataFrame(rows)


_SHARED = {
    "cold starts": ("models/*/*/start*.run.json",),
    "teachers": ("teacher/start*/seed*/model.run.json",),
    "teacher cache": ("student_calls/*/start*.run.json", "teacher/start*/cache/*.run.json"),
    "weights on the dev split": ("tuning/*.run.json",),
}
"""Stage that all methods share → glob patterns of its run records."""


_EVALUATION = "evaluation"
"""Stage whose records are those of the table's runs: a folder may hold those of methods that were asked for earlier."""


def cost_records(results: Results, what: str) -> list[Path]:
    """Return the paths of the run records that a row of the cost table uses; those of a method may not exist."""
    if what in _SHARED:
        return [path for pattern in _SHARED[what] for path in sorted(results.folder.glob(pattern))]
    if what == _EVALUATION:
        runs = results.config.evaluated_runs
        return [records_path(results.folder, *run).with_name("records.run.json") for run in runs]
    return [metrics_path(results.folder, what, seed).with_name("model.run.json") for seed in results.config.seeds]


def tuning_table(folder: Path) -> pd.DataFrame:
    """List the trials on the dev split, one row each; ``chosen`` marks the weight that the main table's runs use."""
    rows: list[Row] = []
    for path in sorted(folder.glob("tuning/*.json")):
        if path.name.endswith(".run.json"):
            continue
        choice = json.loads(path.read_text())
        rows += [
            {"method": choice["method"], "key": choice["key"], **trial, "chosen": trial["weight"] == choice["weight"]}
            for trial in choice["trials"]
        ]
    columns = ["method", "key", "factor", "weight", "accuracy", "call_rate", "items", "chosen"]
    frame = pd.DataFrame(rows, columns=columns)
    # Over items alone: the noise that a difference between two trials has to exceed.
    error = np.sqrt(frame["accuracy"] * (1 - frame["accuracy"]) / frame["items"])
    frame.insert(columns.index("call_rate"), "standard_error", error)
    return frame


def _cost(name: str, paths: Sequence[Path]) -> Row:
    records = [json.loads(path.read_text()) for path in paths if path.exists()]
    seconds = [record["wall_seconds"] for record in records]
    gpus = [len(record["hardware"].get("gpus", [])) for record in records]
    busy = sum(s * (g or record["threads"]) for s, g, record in zip(seconds, gpus, records, strict=True))
    return {
        "what": name,
        "runs": len(records),
        "device": "GPU" if any(gpus) else "CPU",
        "hours": busy / 3600,
        "seconds_per_run": float(np.median(seconds)) if seconds else np.nan,
    }


def _shares(metrics: pd.DataFrame) -> Row:
    def total(column: str) -> float:
        return metrics[column].sum() if column in metrics else 0.0

    step = total("seconds/step")
    if not step:
        return dict.fromkeys(("seconds_per_step", "attribution_share", "verifier_share"), np.nan)
    return {
        "seconds_per_step": metrics["seconds/step"].median(),
        "attribution_share": total("seconds/attribution") / step,
        "verifier_share": total("seconds/verifier") / step,
    }
