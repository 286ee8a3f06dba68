"""Tables of the study's sparse half: the starts, the cells, and the contrasts between cells."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.mechanism.oracle_share import AVERAGED, ORACLE, Pairs, oracle_share, pairs_of, weights_of
from benchmarks.mechanism.sparsity import SparseStudy
from benchmarks.stats.multiplicity import bonferroni, fixed_sequence, holm
from benchmarks.stats.ratio import share_columns
from benchmarks.stats.verdicts import CANNOT_TELL, verdict
from benchmarks.tables.render import each_value
from benchmarks.tables.training import area_under, steps_to
from iapo.config.variants import Cell

PRIMARY, HARM, OUTCOME, CONTROL = "primary", "harm", "outcome", "control"
"""What a contrast is for, beside :data:`~benchmarks.mechanism.oracle_share.ORACLE`. Declared beforehand: does the
oracle win at a start, and do the declared comparisons, each averaged over the scalings; does scaling per group harm the
studied method at a start. Besides: any other cell against the outcome alone; a method against its matched control."""

Row = dict[str, object]

_COLUMNS = ["name", "baseline", "method", "against", "setting", "start", "role", "delta", "low", "high", "p", "found"]
"""Of a comparison, before it has a verdict."""


def read_rates(paths: Sequence[Path]) -> pd.DataFrame:
    """Return how often the calls of each start are right, one row per start and cold start."""
    return pd.DataFrame([json.loads(path.read_text()) for path in paths])


def starts_table(study: SparseStudy) -> pd.DataFrame:
    """Describe the policies that training starts from, means over cold starts.

    Returns:
        One row per start, the sparsest first, all as fractions: ``right_rate``, ``groups_with_right`` and ``call_rate``
        of calls sampled on training prompts at the training temperature; of greedy answers to test questions
        ``accuracy``, ``right_after_right`` and ``right_after_other``: how often the answer is right after the right
        call, and after another one or none (nan where there are none).
    """
    return pd.DataFrame([_start_row(study, start) for start in study.starts])


def _start_row(study: SparseStudy, start: str) -> Row:
    rates = study.rates[study.rates["stage"] == start]
    records = study.records[study.records["condition"] == f"untrained_{start}"]
    right = records["right_call"].astype(bool)
    return {
        "start": start,
        **{name: float(rates[name].mean()) for name in ("right_rate", "groups_with_right", "call_rate")},
        "accuracy": float(records.groupby("test_set")["score"].mean().mean()),
        "right_after_right": float(records.loc[right, "score"].mean()),
        "right_after_other": float(records.loc[~right, "score"].mean()),
    }


def contrasts_table(study: SparseStudy) -> pd.DataFrame:
    """Compare every cell with the outcome alone, each method with its matched control, and both over all scalings.

    Returns:
        One row per comparison: ``name`` and ``baseline``, their methods ``method`` and ``against``, ``setting`` (or
        :data:`AVERAGED`), ``start``, ``role`` (:data:`ORACLE` and the others), ``delta`` in [-1, 1] with its interval,
        ``p``, ``p_adjusted`` and ``verdict``. What was declared is tested in a fixed sequence at each start, the oracle
        first, and corrected for the number of starts (Bonferroni); the comparisons of every other role are corrected
        for theirs (Holm). At a start where the oracle is not found better, what finds nothing says
        :data:`benchmarks.stats.verdicts.CANNOT_TELL`.
    """
    rows = [_averaged(study, start, *pair) for start in study.starts for pair in _declared(study)]
    rows += [
        _row(study, [(cell, base)], cell, base, _role(study, cell, base))
        for cell in study.cells
        for base in _baselines(study, cell)
    ]
    table = pd.DataFrame(filter(None, rows), columns=_COLUMNS)
    table["p_adjusted"] = np.nan
    for role in (HARM, OUTCOME, CONTROL):
        family = table["role"] == role
        table.loc[family, "p_adjusted"] = holm(list(table.loc[family, "p"]))
    for start in study.starts:
        sequence = table["role"].isin([ORACLE, PRIMARY]) & (table["start"] == start)
        table.loc[sequence, "p_adjusted"] = bonferroni(_in_sequence(table[sequence]), len(study.starts))
    statistics = study.config.statistics
    table["verdict"] = [
        verdict(found, p, level=statistics.level, margin=statistics.margin)
        for found, p in zip(table["found"], table["p_adjusted"], strict=True)
    ]
    seen = set(table.loc[(table["role"] == ORACLE) & (table["verdict"] == "better"), "start"])
    asked = set(table.loc[table["role"] == ORACLE, "start"])
    blind = table["start"].isin(asked - seen) & ~table["verdict"].isin(["better", "worse"])
    table.loc[blind, "verdict"] = CANNOT_TELL
    return table.drop(columns="found")


def _in_sequence(declared: pd.DataFrame) -> list[float]:
    """Return adjusted p-values of a start's declared comparisons; a worse oracle ends the sequence."""
    found = fixed_sequence(list(declared["p"]))
    first = declared.iloc[0]
    if first["role"] == ORACLE and first["delta"] <= 0:
        return [found[0], *(1.0 for _ in found[1:])]
    return found


def _declared(study: SparseStudy) -> list[tuple[str, str, str]]:
    """Method, what it is compared with and the comparison's role."""
    statistics = study.config.statistics
    primary = [(method, against, PRIMARY) for method, against in statistics.primary]
    return [(statistics.oracle, statistics.reference_method, ORACLE), *primary]


def _averaged(study: SparseStudy, start: str, method: str, against: str, role: str) -> Row | None:
    """Compare two methods at a start by the mean over the scalings, under which both have runs: every run counts."""
    pairs = pairs_of(study, method, against, AVERAGED, start)
    if not pairs:
        return None
    return _row(study, pairs, Cell(method, AVERAGED, start), Cell(against, AVERAGED, start), role)


def _row(study: SparseStudy, pairs: Pairs, cell: Cell, base: Cell, role: str) -> Row:
    """One comparison: the mean of the pairs' differences, under the names of what they stand for."""
    found = study.contrast(weights_of(pairs))
    return {
        "name": cell.name,
        "baseline": base.name,
        "method": cell.method,
        "against": base.method,
        "setting": cell.setting,
        "start": cell.start,
        "role": role,
        "delta": found.delta,
        "low": found.low,
        "high": found.high,
        "p": found.p,
        "found": found,
    }


def _baselines(study: SparseStudy, cell: Cell) -> list[Cell]:
    """What a cell is compared with."""
    control = study.controls.get(cell.method)
    found = [study.outcome_alone(cell), control and study.cell(control, cell.setting, cell.start)]
    return [each for each in found if each and each != cell and cell.method != study.config.statistics.reference_method]


def _role(study: SparseStudy, cell: Cell, base: Cell) -> str:
    if base.method != study.config.statistics.reference_method:
        return CONTROL
    by_group = cell.setting in study.scalings and study.scaling(cell.setting) == "group"
    return HARM if cell.method == study.subject and by_group else OUTCOME


def cells_table(study: SparseStudy, contrasts: pd.DataFrame) -> pd.DataFrame:
    """Describe every cell: the composition of its reward early on, how fast it learned, where it ended.

    Args:
        study: the records.
        contrasts: of :func:`contrasts_table`.

    Returns:
        One row per cell: ``flat_outcomes``, ``term_share``, ``term_alone`` over the first steps (see
        :meth:`iapo.rewards.advantages.AdvantageRule.metrics`); ``steps_to_target``, its runs' values (``-`` for one
        that did not get there); ``dev_area``; ``accuracy`` and its runs' values; ``delta`` to ``delta_high`` and
        ``verdict`` against the outcome alone; ``oracle_share`` with its interval, or nan and ``oracle_share_reason``.
    """
    return pd.DataFrame([_cell_row(study, cell, contrasts) for cell in study.cells])


def _cell_row(study: SparseStudy, cell: Cell, contrasts: pd.DataFrame) -> Row:
    term, runs = study.term(cell.name), study.accuracy_by_seed(cell.name)
    row: Row = {
        "name": cell.name,
        "start": cell.start,
        "setting": cell.setting,
        "method": cell.method,
        "seeds": len(runs),
        "flat_outcomes": study.early(cell.name, "advantage/flat_outcomes"),
        "term_share": study.early(cell.name, f"advantage/{term}_share"),
        "term_alone": study.early(cell.name, f"advantage/{term}_alone"),
        **_learning(study, cell.name),
        "accuracy": float(np.mean(runs)),
        "accuracy_by_seed": each_value(runs),
    }
    against_outcome = contrasts[contrasts["role"].isin([OUTCOME, HARM]) & (contrasts["name"] == cell.name)]
    if against_outcome.empty:
        return row | share_columns("it is the outcome alone")
    (_, found), *_ = against_outcome.iterrows()
    row |= {"delta": found["delta"], "delta_low": found["low"], "delta_high": found["high"]}
    return row | {"verdict": found["verdict"]} | share_columns(oracle_share(study, found, contrasts))


def settings_table(study: SparseStudy, cells: pd.DataFrame) -> pd.DataFrame:
    """Compare the settings by dev accuracy alone, by which a default may be chosen without a look at the test.

    Args:
        study: the records.
        cells: of :func:`cells_table`.

    Returns:
        One row per setting in which the studied method was trained from every start, the best first: ``setting``, and
        as means over starts of ``dev_area`` ``studied``, ``control`` and ``outcome`` (the outcome alone with the
        advantage scaled alike); nan where a start lacks one.
    """
    area = cells.set_index("name")["dev_area"]
    rows = []
    for setting in study.settings:
        found = [study.cell(study.subject, setting, start) for start in study.starts]
        trained = [cell for cell in found if cell]
        if len(trained) < len(study.starts):
            continue
        controls = [study.cell(study.controls.get(study.subject, ""), setting, cell.start) for cell in trained]
        alone = [study.outcome_alone(cell) for cell in trained]
        columns: dict[str, Sequence[Cell | None]] = {"studied": trained, "control": controls, "outcome": alone}
        means = {name: np.mean([area[cell.name] if cell else np.nan for cell in of]) for name, of in columns.items()}
        rows.append({"setting": setting, **means})
    table = pd.DataFrame(rows, columns=["setting", "studied", "control", "outcome"])
    return table.sort_values("studied", ascending=False, ignore_index=True)


def _learning(study: SparseStudy, name: str) -> Row:
    """How fast the runs of a cell learned, by their dev accuracy."""
    rows = study.metrics[study.metrics["condition"] == name]
    target = study.config.statistics.target_accuracy
    reached, areas = [], []
    for _, run in rows.dropna(subset=["dev/accuracy"]).sort_values("step").groupby("seed"):
        steps, accuracy = run[["step", "dev/accuracy"]].to_numpy(np.float64).T
        reached.append(steps_to(target, steps, accuracy))
        areas.append(area_under(steps, accuracy))
    return {
        "steps_to_target": " ".join("-" if step is None else f"{step:g}" for step in reached),
        "dev_area": float(np.mean(areas)) if areas else np.nan,
    }
