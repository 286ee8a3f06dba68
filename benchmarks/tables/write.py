"""Writing of all tables and figures of a profile, from the contents of its results folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks import curves
from benchmarks.results import Results, load_results
from benchmarks.tables import pages, training_pages
from benchmarks.tables.contrasts import declared_contrasts, differences_by_seed
from benchmarks.tables.main import AVERAGE
from benchmarks.tables.render import Table, markdown, write
from benchmarks.tables.report_page import report_page
from iapo.artifacts.files import atomic_write
from iapo.config.schema import Config


def write_all(folder: Path, config: Config) -> str:
    """Write ``tables/``, ``figures/`` and ``report.html`` of a profile's results folder.

    Args:
        folder: ``results/<profile>``.
        config: configuration of the profile.

    Returns:
        The main table in Markdown.
    """
    results = load_results(folder, config)
    verdict = folder / "informative.json"
    teacher = json.loads(verdict.read_text()) if verdict.exists() else None
    tables = {
        table.name: table
        for table in (
            pages.main_page(results, teacher),
            pages.contrast_page(results),
            pages.difference_page(results),
            pages.calls_page(results),
            pages.image_help_page(results),
            pages.scorers_page(results),
            training_pages.dynamics_page(results),
            training_pages.cost_page(results),
            training_pages.tuning_page(results),
            pages.reported_page(),
        )
    }
    for table in tables.values():
        write(table, folder / "tables")
    _draw(results, tables)
    with atomic_write(folder / "report.html") as tmp:
        tmp.write_text(report_page(results, tables, folder / "figures"))
    return markdown(tables["main"])


def _draw(results: Results, tables: dict[str, Table]) -> None:
    folder = results.folder / "figures"
    curves.learning_curves(results.metrics, folder / "learning_curves.png")
    declared = [name for pair in declared_contrasts(results.config) for name in pair]
    curves.dynamics(results.metrics, folder / "dynamics.png", highlighted=declared)
    curves.block_shares(results.metrics, folder / "block_shares.png", highlighted=declared)
    curves.forest(_compared(results, tables), folder / "forest.png")
    curves.image_help(tables["image_help"].frame.dropna(subset=["accuracy"]), folder / "image_help.png")


def _compared(results: Results, tables: dict[str, Table]) -> pd.DataFrame:
    """Comparisons of the forest plot: those declared beforehand, then the other methods against the reference."""
    reference = results.config.statistics.reference_method
    main = tables["main"].frame
    trained = main[(main["test_set"] == AVERAGE) & main["method"].isin(results.config.methods)]
    others = trained.rename(columns={f"delta_vs_{reference}": "delta", "delta_low": "low", "delta_high": "high"})
    declared = tables["contrasts"].frame
    against = set(declared.loc[declared["baseline"] == reference, "method"])
    found = pd.concat(
        [
            declared.assign(group="declared beforehand"),
            others[~others["method"].isin(against)].assign(baseline=reference, group=f"others, against {reference}"),
        ],
        ignore_index=True,
    )
    found = found[np.isfinite(found["delta"].astype(float))]
    pairs = list(zip(found["method"], found["baseline"], strict=True))
    names = [
        f"{a} − {b}" if group == "declared beforehand" else a
        for (a, b), group in zip(pairs, found["group"], strict=True)
    ]
    runs = [differences_by_seed(results, *pair) for pair in pairs]
    return found.assign(method=names, runs=pd.Series(runs, index=found.index, dtype=object))


def write_ablations(folder: Path, config: Config) -> str:
    """Write the ablation table, ``tables/ablations.*``, and return it in Markdown.

    Args:
        folder: ``results/<profile>``.
        config: configuration of the profile, with its ablations.
    """
    table = pages.ablation_page(load_results(folder, config, config.ablation_runs))
    write(table, folder / "tables")
    return markdown(table)
