"""The readable version of the tables on training: dynamics, cost, and the choice of the weights."""

from __future__ import annotations

import pandas as pd

from benchmarks.results import Results
from benchmarks.tables.render import NOTHING, Table, number, percent
from benchmarks.tables.training import cost_table, dynamics_table, tuning_table


def dynamics_page(results: Results) -> Table:
    """Return the training dynamics: every step in the CSV, five steps in the readable version."""
    frame = dynamics_table(results)
    rows = []
    for method, steps in frame.groupby("method", sort=False):
        first, last = int(steps["step"].min()), int(steps["step"].max())
        for step in sorted({round(first + (last - first) * part / 4) for part in range(5)}):
            near = steps[(steps["step"] - step).abs() <= max(1, last // 30)]
            rows.append({"method": str(method), "step": str(step), **_dev_cells(steps, step), **_watched(near)})
    target = results.config.statistics.target_accuracy
    caption = (
        "Training dynamics, means over seeds and neighbouring steps: accuracy and right first calls on the dev split "
        "(the last measured), outcome reward, share of rollouts that call a tool, share of the calls carried out, "
        "alignment penalty, share of groups without any difference. Area: mean dev accuracy over the whole run; to "
        f"{target:.0%}: steps until dev accuracy was that high, run by run. Every step: the CSV."
    )
    shown = pd.DataFrame(rows).rename(columns={"to target": f"to {target:.0%}"})
    return Table("dynamics", frame, caption, shown, keys=2)


def _dev_cells(steps: pd.DataFrame, step: int) -> dict[str, str]:
    """Dev accuracy as measured last at a step, and how fast the method's runs learned."""
    if "dev_accuracy_mean" not in steps:
        return {}
    before = steps[steps["step"] <= step].sort_values("step")
    row = steps.iloc[0]
    return {
        "dev accuracy": percent(_last(before["dev_accuracy_mean"])),
        "dev right calls": percent(_last(before["dev_right_calls_mean"])),
        "area": percent(row["dev_area"]),
        "to target": row["steps_to_target_by_seed"] or NOTHING,
    }


def _last(values: pd.Series) -> float:
    measured = values.dropna()
    return float(measured.iloc[-1]) if len(measured) else float("nan")


def _watched(steps: pd.DataFrame) -> dict[str, str]:
    names = {"outcome": 2, "call_rate": 2, "success_rate": 2, "penalty": 3, "flat_groups": 2}
    return {
        name.replace("_", " "): number(float(steps[f"{name}_mean"].mean()), digits)
        for name, digits in names.items()
        if f"{name}_mean" in steps
    }


def cost_page(results: Results) -> Table:
    """Return the table of compute costs."""
    frame = cost_table(results)
    shown = pd.DataFrame(
        {
            "what": frame["what"],
            "runs": frame["runs"].astype(str),
            "hours": [f"{number(r['hours'])} {r['device']}" for r in frame.to_dict("records")],
            "seconds a run": [number(value, 0) for value in frame["seconds_per_run"]],
            "seconds a step": [number(value) for value in frame["seconds_per_step"]],
            "of which attribution": [percent(value, 0) for value in frame["attribution_share"]],
            "of which verifier": [percent(value, 0) for value in frame["verifier_share"]],
        }
    )
    caption = (
        "Cost: hours of all runs together, medians of a run and of a step, and the shares (percent) of the training "
        "step that attribution and the verifier take. Timed while other jobs ran beside."
    )
    return Table("cost", frame, caption, shown)


def tuning_page(results: Results) -> Table:
    """Return the table of the weight search."""
    frame = tuning_table(results.folder)
    tuning = results.config.tuning
    shown = pd.DataFrame(
        {
            "method": frame["method"],
            "setting": frame["key"],
            "weight": [f"{value:g}" for value in frame["weight"]],
            "dev accuracy": [
                f"{percent(value)} ± {percent(error)}"
                for value, error in zip(frame["accuracy"], frame["standard_error"], strict=True)
            ],
            "tool calls": [percent(value, 0) for value in frame["call_rate"]],
            "chosen": ["chosen" if value else "" for value in frame["chosen"]],
        }
    )
    caption = (
        f"The weight of each method's tool reward, chosen on the dev split by the same budget: {len(tuning.factors)} "
        f"trials of {tuning.steps} steps with seed {tuning.seed}, the most accurate taken (± one standard error "
        "over the questions). Controls weigh as much as iapo."
    )
    return Table("tuning", frame, caption, shown)
