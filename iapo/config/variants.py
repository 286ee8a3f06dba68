"""Variants of methods: named one by one, as a grid of settings and starts, or as one setting changed at a time.

Read through :mod:`iapo.config.schema`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any

from pydantic.dataclasses import dataclass

from iapo.config.sources import SETTINGS, Count, Positive, RowName


@dataclass(frozen=True, config=SETTINGS)
class Variant:
    """A method with settings of its own; trained and tabulated beside the methods."""

    method: str
    """Name of ``baselines.METHODS``."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Overrides of `train`, `attribution`, `alignment` and `rewards`, nested as in a config file."""
    steps_factor: Positive = 1.0
    """What `train.steps` is multiplied by, rounded: a row that may take as much compute as a dearer method."""
    start: str | None = None
    """The habit of `student.habits` that its policies start with; null starts them as the methods' are."""
    against: tuple[str, ...] = ()
    """Methods or variants that the mechanism study compares it with: its controls."""


@dataclass(frozen=True, config=SETTINGS)
class AblationConfig:
    """One setting changed at a time, trained and tabulated by `make ablations`."""

    method: str = "iapo"
    """Whose settings are changed."""
    grid: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    """Key of `train`, `attribution`, `alignment` or `rewards` (dotted) → values other than the method's own."""


@dataclass(frozen=True, config=SETTINGS)
class GridConfig:
    """Methods under several settings and from several starts; each combination is a variant, and in `methods`."""

    methods: tuple[str, ...]
    """Names of ``baselines.METHODS``."""
    settings: dict[RowName, dict[str, Any]]
    """Name → overrides, as a variant's."""
    starts: tuple[str, ...]
    """Habits of `student.habits`."""
    seeds: Count | None = None
    """How many of the run's `seeds` train each combination, its first; null takes all. Of a combination in several
    grids the largest number counts."""


@dataclass(frozen=True)
class Cell:
    """One combination of a grid."""

    method: str
    setting: str
    """Name of its settings."""
    start: str

    @property
    def name(self) -> str:
        """Its name as a variant."""
        return f"{self.method}_{self.setting}_{self.start}"


def cells(grids: Mapping[str, GridConfig]) -> list[Cell]:
    """Return the combinations of all grids, each once, start by start and setting by setting."""
    found = [
        Cell(method, setting, start)
        for grid in grids.values()
        for start in grid.starts
        for setting in grid.settings
        for method in grid.methods
    ]
    return list(dict.fromkeys(found))


def grid_variants(grids: Mapping[str, GridConfig]) -> dict[str, Variant]:
    """Return the variants that grids stand for, by name."""
    return {
        cell.name: Variant(cell.method, grid.settings[cell.setting], start=cell.start)
        for name, grid in grids.items()
        for cell in cells({name: grid})
    }


def grid_seeds(grids: Mapping[str, GridConfig]) -> dict[str, int | None]:
    """Return how many seeds train each combination, by its name; None for all of them."""
    limits: dict[str, list[int | None]] = {}
    for name, grid in grids.items():
        for cell in cells({name: grid}):
            limits.setdefault(cell.name, []).append(grid.seeds)
    return {name: None if None in found else max(filter(None, found)) for name, found in limits.items()}


def nested(key: str, value: object) -> dict[str, Any]:
    """``("alignment.weight", 1)`` → ``{"alignment": {"weight": 1}}``."""
    section, _, name = key.partition(".")
    return {section: {name: value}}


def ablation_name(key: str, value: object) -> str:
    """``("alignment.weight", 0.1)`` → ``alignment_weight_0p1``: a variant's name and folder."""
    text = f"{key.replace('.', '_')}_{str(value).lower().replace('.', 'p')}"
    return "".join(c if c.isalnum() else "_" for c in text)
