"""Drawing with boxes from anywhere: clipped to the picture, in bounded time, on a copy of the same size."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageChops

from iapo.tools.drawing import apply
from iapo.types import Box, Figure, ToolCall

SIZE = (100, 80)
MODES = ("mask", "draw", "highlight")
EDGES = st.integers(-(10**12), 10**12) | st.integers(-5, 105)
BOXES = st.tuples(EDGES, EDGES, EDGES, EDGES)


def edited(mode: str, listed: list[Box], others: list[Box]) -> Image.Image:
    boxes = {f"l{i}": box for i, box in enumerate([*listed, *others])}
    call = ToolCall(f"focus_on_rows_with_{mode}", tuple(boxes)[: len(listed)])
    result = apply(Image.new("RGB", SIZE, "gray"), Figure("f", "table", {"rows": boxes}), [call])
    assert result.error is None
    return result.image


def inside(box: Box) -> Box:
    return max(0, box[0]), max(0, box[1]), min(SIZE[0], box[2]), min(SIZE[1], box[3])


@given(st.sampled_from(MODES), st.lists(BOXES, min_size=1, max_size=4), st.lists(BOXES, max_size=4))
def test_any_box_is_drawn_in_bounded_time_as_its_part_in_the_picture(
    mode: str, listed: list[Box], others: list[Box]
) -> None:
    started = time.process_time()
    image = edited(mode, listed, others)
    assert time.process_time() - started < 0.5
    assert image.size == SIZE and image.mode == "RGB"
    assert image.tobytes() == edited(mode, list(map(inside, listed)), list(map(inside, others))).tobytes()


@pytest.mark.parametrize("mode", MODES)
def test_a_box_far_beyond_the_picture_is_its_part_inside(mode: str) -> None:
    started = time.process_time()
    image = edited(mode, [(0, 0, 10**9, 10**9)], [(-(10**9), -(10**9), 50, 40)])
    assert time.process_time() - started < 0.5
    changed = ImageChops.difference(image, Image.new("RGB", SIZE, "gray")).getbbox()
    assert changed == {"mask": None, "draw": (2, 2, 98, 78), "highlight": (0, 0, *SIZE)}[mode]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("box", [(60, 10, 20, 30), (10, 60, 30, 20), (9, 9, 9, 30), (100, 0, 120, 80), (0, -9, 9, 0)])
def test_a_box_without_area_in_the_picture_changes_nothing(mode: str, box: Box) -> None:
    beside = [(0, 0, 5, 5)] if mode == "mask" else []
    image = edited(mode, beside or [box], [box] if beside else [])
    assert image.tobytes() == Image.new("RGB", SIZE, "gray").tobytes()
