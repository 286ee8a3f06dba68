"""Writing of the viewer from a profile's results folder."""

from __future__ import annotations

from pathlib import Path

from benchmarks.results import load_results
from benchmarks.viewer.page import page
from benchmarks.viewer.rollouts import rollouts
from benchmarks.viewer.training import training_rollouts
from iapo.artifacts.files import atomic_write
from iapo.config.schema import Config
from iapo.data.store import read_split

PAGE, TRAINING_PAGE = "view.html", "view_training.html"
"""Names of the pages of the test's and of training's rollouts."""


def write_viewer(folder: Path, config: Config, out: Path) -> None:
    """Write the page of a profile's records.

    Args:
        folder: ``results/<profile>``, with the policies' records and the test questions.
        config: configuration of the profile.
        out: the HTML file.

    Raises:
        RecordsError: without records, or for one that does not fit its question.
        iapo.data.store.DataError: for missing or altered questions.
    """
    results = load_results(folder, config)
    shown, pictures = rollouts(results, read_split(folder / "data", "test", results.sets))
    with atomic_write(out) as tmp:
        tmp.write_text(page(shown, pictures), encoding="utf-8")


def write_training_viewer(folder: Path, config: Config, out: Path) -> None:
    """Write the page of the rollouts that a profile's trainings kept.

    Args:
        folder: ``results/<profile>``, with the runs' own folders.
        config: configuration of the profile.
        out: the HTML file.
    """
    shown, pictures = training_rollouts(folder, config)
    with atomic_write(out) as tmp:
        tmp.write_text(page(shown, pictures, "training.html"), encoding="utf-8")
