"""Panels: a box covers all that is drawn of its sub-figure, also where a name touches the frame."""

import random

import numpy as np
import pytest
from PIL import Image, ImageDraw

from iapo.config.schema import DataConfig
from iapo.data.boxes import find_panels
from iapo.data.mini_world.figures import CELL, draw, figure_grid
from iapo.data.mini_world.gapminder import split_tables
from iapo.data.mini_world.vocabulary import PANELS
from iapo.data.mini_world.world import draw_samples
from iapo.tools.drawing import apply
from iapo.types import Figure, ToolCall

COUNTS = {"train": 60, "dev": 40, "test": 150}
REGIONS = {
    f"row {i + 1} column {j + 1}": (2 * CELL * j, CELL * i, 2 * CELL * (j + 1), CELL * (i + 1))
    for i in range(2)
    for j in range(5)
}
"""Panel → the cells that hold it, by the figure's layout."""


def ink(image: Image.Image) -> np.ndarray:
    """[height, width] whether a pixel is neither white nor background."""
    pixels = np.asarray(image)
    white, ground = (np.array(colour, dtype=np.uint8) for colour in ((255, 255, 255), (0xFB, 0xFB, 0xF4)))
    return (pixels != white).any(axis=-1) & (pixels != ground).any(axis=-1)


@pytest.mark.parametrize("split", COUNTS)
def test_a_mask_leaves_all_of_one_panel_and_nothing_of_the_others(split: str) -> None:
    config = DataConfig()
    rng = random.Random(f"{config.seed}/{split}/charxiv")
    # The first ones of the configured data; some of their names touch the frame.
    tables = split_tables(config.seed, config.value_unit)[split]  # type: ignore[index]
    for sample in draw_samples(rng, tables, "charxiv", COUNTS[split], config):
        image = draw(figure_grid("charxiv", sample.labels, sample.values, sample.title, sample.smudged))
        figure = Figure("f", "subfigures", {"subfigures": find_panels(image)})
        assert tuple(figure.boxes["subfigures"]) == PANELS
        for panel, (left, top, right, bottom) in REGIONS.items():
            masked = apply(image, figure, [ToolCall("focus_on_subfigures_with_mask", (panel,))]).image
            region = np.zeros((image.height, image.width), dtype=bool)
            region[top:bottom, left:right] = True
            assert not (ink(masked) & ~region).any(), (sample.labels, panel)
            drawn = ink(image) & region
            assert (np.asarray(masked)[drawn] == np.asarray(image)[drawn]).all(), (sample.labels, panel)


def test_ink_across_a_frame_belongs_to_its_panel_and_ink_beside_it_does_not() -> None:
    image = Image.new("RGB", (400, 300), "white")
    pen = ImageDraw.Draw(image)
    frames = [(20, 20, 180, 280), (220, 20, 380, 280)]
    for frame in frames:
        pen.rectangle(frame, outline="black")
    # A label outside, as of an axis, and a curve that leaves the frame by more than a line's width.
    pen.rectangle((192, 100, 210, 120), fill="black")
    pen.line((300, 100, 390, 150), fill="black")
    left, right = find_panels(image).values()
    assert all(abs(a - b) <= 2 for a, b in zip(left, frames[0], strict=True))
    assert right[0] >= 216 and right[2] >= 381
