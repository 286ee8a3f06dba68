"""The paper's run, whose settings are checked and whose hours follow from what is measured."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import yaml

from iapo.config.method import AttributionConfig
from iapo.config.schema import Config, load_config

TYPICAL_TURN = 256
"""Tokens, as the estimate takes it; a batch ends with its longest turn, about twice as long."""


@cache
def paper_config() -> Config:
    """Return the configuration of the profile `paper`."""
    path = Path(__file__).resolve().parents[2] / "config" / "paper.yaml"
    return load_config(yaml.safe_load(path.read_text()))


def paper_attribution(points: int) -> AttributionConfig:
    """Return its settings of attribution with some number of points, and none beside, which depend on the weights."""
    return replace(paper_config().attribution, n_steps=points, tolerance=1e9)
