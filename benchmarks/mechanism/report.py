"""The half of the study with hints: differences from controls, composition of the reward, shares against behaviour."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TypedDict

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.stats.paired import paired_difference
from iapo.alignment.informativeness import auc_of, correlation
from iapo.config.schema import Config

OUTCOMES = ("score", "follows_request", "share_R")
"""Outcomes that a penalty may change: test accuracy, calls that follow the request, the request's block share."""
AGAINST: Mapping[str, tuple[str, ...]] = {
    "iapo": ("vtool_r1", "iapo_shuffled"),
    "iapo_shuffled": (),
    "planted_penalty": ("vtool_r1",),
    "constant_penalty": ("vtool_r1",),
}
"""Method → its controls, for the methods that are not variants; any other one is held against the reference alone."""
_EDITS = {"flips_with_hint": "share_P", "flips_with_request": "share_R"}
"""Column that says whether the call follows an edit of a block → column of that block's share."""

_ROUNDING = 1e-6
"""Differences below it can come from the order of floating-point sums alone."""

_ONE_SEED = "One seed: the intervals are over items alone; another training run may differ by more."


class Reliance(TypedDict):
    """How well a block's share predicts that calls follow an edit of the block; see :func:`reliance`."""

    share: str
    """Column of the block's share."""
    policies: int
    across_policies: float
    within_policy: float
    within_policy_low: float
    within_policy_high: float


def controls(config: Config) -> dict[str, tuple[str, ...]]:
    """Return condition → its controls, among the conditions of this profile."""
    run = ["cold", "teacher", *config.methods]
    reference = config.statistics.reference_method
    wanted = {
        name: config.variants[name].against if name in config.variants else AGAINST.get(name, (reference,))
        for name in config.methods
        if name != reference
    }
    return {name: kept for name, found in wanted.items() if (kept := tuple(c for c in found if c in run))}


def read_records(paths: Sequence[Path]) -> pd.DataFrame:
    """Return the records of all conditions in one table, with shares and behaviour as floats (nan where missing)."""
    frames = [pd.read_parquet(path) for path in paths]
    numbers = [name for name in frames[0].columns if name.startswith(("share_", "follows_", "flips_"))]
    return pd.concat([frame.astype(dict.fromkeys(numbers, float)) for frame in frames], ignore_index=True)


def conditions_table(records: pd.DataFrame, metrics: pd.DataFrame) -> pd.DataFrame:
    """Return one row per condition: means over seeds and items, and over training steps.

    Args:
        records: of :func:`benchmarks.mechanism.behaviour.measure`, all conditions.
        metrics: training metrics per step, with ``condition`` and ``seed``.
    """
    figures = ["score", "follows_request", "follows_hint", "flips_with_request", "flips_with_hint"]
    shares = [name for name in records.columns if name.startswith("share_")]
    numbers = records.astype(dict.fromkeys([*figures, *shares], float))
    table = numbers.groupby("condition", sort=False)[[*figures, *shares]].mean()
    table.insert(0, "seeds", records.groupby("condition")["seed"].nunique())
    steps = metrics.groupby("condition").mean(numeric_only=True)
    parts = [
        name.removeprefix("advantage/").removesuffix("_share")
        for name in steps.columns
        if name.startswith("advantage/") and name.endswith("_share") and "outcome" not in name
    ]
    penalty = pd.DataFrame(index=table.index)
    for part in parts:
        for column, suffix in {"penalty_std": "std", "penalty_share": "share", "penalty_alone": "alone"}.items():
            values = steps.get(f"advantage/{part}_{suffix}")
            if values is not None:
                penalty[column] = penalty.get(column, pd.Series(dtype=float)).combine_first(values)
    table["outcome_std"] = steps.get("advantage/outcome_reward_std")
    return table.join(penalty.reindex(table.index)).reset_index()


def comparisons(records: pd.DataFrame, config: Config) -> pd.DataFrame:
    """Compare every condition with each of its controls, paired by item, for accuracy, calls and shares.

    A question without a call counts as not following the request, and is left out of the comparison of shares.
    """
    rows = []
    for condition, against in controls(config).items():
        for control in against:
            for outcome in OUTCOMES:
                a, b = (_by_item(records, name, outcome) for name in (condition, control))
                shared = ~(np.isnan(a).any(0) | np.isnan(b).any(0))
                if not shared.any():  # A policy that never calls has no shares.
                    continue
                found = paired_difference(
                    a[:, shared],
                    b[:, shared],
                    clusters=list(_clusters(records, condition)[shared]),
                    level=config.statistics.level,
                    seed=config.statistics.seed,
                    draws=config.statistics.bootstrap_draws,
                )
                verdict = (
                    "more" if found.low > _ROUNDING else "less" if found.high < -_ROUNDING else "no difference found"
                )
                rows.append(
                    {"condition": condition, "control": control, "outcome": outcome, **asdict(found)}
                    | {"verdict": verdict, "items": int(shared.sum())}
                )
    return pd.DataFrame(rows)


def reliance(records: pd.DataFrame) -> dict[str, Reliance]:
    """Measure whether a block's share predicts that calls follow an edit of the block.

    Returns:
        Per edit: ``across_policies``, the correlation over policies between mean share and rate of calls that follow
        the edit; ``within_policy``, the mean over policies of the AUC with which a call's share predicts that it
        follows the edit, with its 95 % interval over policies.
    """
    found: dict[str, Reliance] = {}
    called = records.dropna(subset=["share_P"])
    for edit, share in _EDITS.items():
        means, rates, aucs = [], [], []
        for _, rows in called.groupby(["condition", "seed"]):
            flips = rows[edit].astype(bool).to_numpy()
            shares = rows[share].to_numpy(dtype=np.float64)
            means.append(shares.mean())
            rates.append(flips.mean())
            if flips.any() and not flips.all():
                aucs.append(auc_of(shares[flips], shares[~flips]))
        spread = 1.96 * float(np.std(aucs, ddof=1)) / len(aucs) ** 0.5 if len(aucs) > 1 else float("nan")
        mean = float(np.mean(aucs)) if aucs else float("nan")
        found[edit] = {
            "share": share,
            "policies": len(means),
            "across_policies": correlation(np.array(means), np.array(rates)),
            "within_policy": mean,
            "within_policy_low": mean - spread,
            "within_policy_high": mean + spread,
        }
    return found


def findings(compared: pd.DataFrame, relied: Mapping[str, Reliance]) -> list[str]:
    """Return the results in sentences.

    Args:
        compared: of :func:`comparisons`.
        relied: of :func:`reliance`.
    """
    if compared.empty:
        return ["No condition has a control in this run."]
    lines = []
    for outcome, what in zip(OUTCOMES, ("test accuracy", "calls that follow the request", "R's share"), strict=True):
        rows = compared[compared["outcome"] == outcome]
        beaten = {str(name): set(group["verdict"]) for name, group in rows.groupby("condition", sort=False)}
        lines.append(
            f"More {what} than every control of its own: {_names(n for n, v in beaten.items() if v == {'more'})}. "
            f"Less than one of them: {_names(n for n, v in beaten.items() if 'less' in v)}."
        )
    for edit, facts in relied.items():
        block = "hint" if edit == "flips_with_hint" else "request"
        lines.append(
            f"Share {facts['share'][-1]} against following an edited {block}: r = {facts['across_policies']:+.2f} over "
            f"{facts['policies']} policies; within a policy the share ranks the calls that follow with AUC "
            f"{facts['within_policy']:.2f} [{facts['within_policy_low']:.2f}, {facts['within_policy_high']:.2f}]."
        )
    return lines


def page(table: pd.DataFrame, compared: pd.DataFrame, lines: Sequence[str], config: Config) -> str:
    """Return the half as Markdown, from its heading on; behind it, as a list, the results in sentences."""
    shown = table.copy()
    for column in shown.columns.drop(["condition", "seeds"]):
        shown[column] = [("–" if np.isnan(value) else f"{value:.3f}") for value in shown[column].astype(float)]
    differences = pd.DataFrame(
        {
            "condition": compared["condition"],
            "control": compared["control"],
            "of": compared["outcome"],
            "difference": [
                f"{row.delta:+.3f} [{row.low:+.3f}, {row.high:+.3f}]" for row in compared.itertuples(index=False)
            ],
            "verdict": compared["verdict"],
        }
    )
    return "\n".join(
        [
            f"## Where a hint is a shortcut (`{config.profile}`)",
            "",
            *(f"- {line}" for line in lines),
            "",
            "![plots](page.png)",
            "",
            "### Conditions",
            "",
            "`penalty_std`, `outcome_std`: standard deviation within groups; `penalty_share`: share of the penalty in "
            "the advantage; `penalty_alone`: share of groups in which nothing else differs.",
            "",
            shown.to_markdown(index=False, disable_numparse=True),
            "",
            f"### Differences, paired by item, {config.statistics.level:.0%} intervals over items and seeds",
            "",
            differences.to_markdown(index=False, disable_numparse=True),
            "",
            *([_ONE_SEED, ""] if len(config.seeds) == 1 else []),
        ]
    )


def _by_item(records: pd.DataFrame, condition: str, outcome: str) -> NDArray[np.float64]:
    rows = records[records["condition"] == condition]
    wide = rows.pivot_table(index="seed", columns="example_id", values=outcome, aggfunc="first", dropna=False)
    values = wide.astype(float).to_numpy()
    return np.nan_to_num(values) if outcome == "follows_request" else values


def _clusters(records: pd.DataFrame, condition: str) -> NDArray[np.str_]:
    """Cluster of each item [N], in the order of :func:`_by_item`."""
    items = records[records["condition"] == condition].drop_duplicates("example_id").sort_values("example_id")
    return items["cluster"].to_numpy(str)


def _names(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
