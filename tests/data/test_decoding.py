"""Figures as a reader sees them: transparency on white, 16 bits as 8, upright; what no processor takes is left out."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageDraw, ImageOps
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from iapo.data.decoding import as_seen, is_turned
from iapo.data.ingest import Reading, read_record
from iapo.data.prompts import open_image
from iapo.data.records import LeftOutError, Record

WHITE, BLACK = (255, 255, 255), (0, 0, 0)
BAR = (8, 4, 15, 11)
NO_BOXES: dict[str, Any] = {"x_values": [], "y_values": [], "x_bboxes": [], "y_bboxes": []}
ONE_BOX = {**NO_BOXES, "x_values": ["a"], "x_bboxes": [{"x1": 0, "y1": 0, "x2": 0.5, "y2": 1}]}


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def read(picture: bytes, test_set: str = "h_bar", **fields: Any) -> Reading:
    record = Record(Path("records.json"), "r1", {"query": "q", "prompt": "q", "answer": "1", **NO_BOXES, **fields})
    return read_record(record, picture, test_set=test_set, split="test")


def drawn(mode: str, ground: Any, ink: Any, **info: Any) -> Image.Image:
    """A bar on a transparent ground; where nothing else says so, both are black below their transparency."""
    image = Image.new(mode, (24, 16), ground)
    image.paste(ink, BAR)
    image.info.update(info)
    return image


def palette_with_alpha() -> Image.Image:
    image = Image.new("PA", (24, 16), (0, 0))
    image.putpalette(bytes(768))
    image.paste((0, 255), BAR)
    return image


def sixteen_bits(values: Any) -> Image.Image:
    return Image.fromarray(np.asarray(values, dtype=np.uint16))


def levels(image: Image.Image) -> list[int]:
    """Grey levels of an image as seen, which must be grey."""
    red, green, blue = (np.asarray(band).ravel().tolist() for band in as_seen(image).split())
    assert red == green == blue
    return red


TRANSPARENT = {
    "RGBA": drawn("RGBA", (0, 0, 0, 0), (0, 0, 0, 255)),
    "RGBa": drawn("RGBA", (0, 0, 0, 0), (0, 0, 0, 255)).convert("RGBa"),
    "LA": drawn("LA", (0, 0), (0, 255)),
    "PA": palette_with_alpha(),
    "palette, an index": drawn("P", 3, 0, transparency=3),
    "palette, alpha by index": drawn("P", 3, 0, transparency=bytes([255, 255, 255, 0])),
    "RGB, a colour": drawn("RGB", (1, 2, 3), (0, 0, 0), transparency=(1, 2, 3)),
    "L, a level": drawn("L", 7, 0, transparency=7),
    "16 bits, a level": sixteen_bits(np.pad(np.zeros((7, 7)), ((4, 5), (8, 9)), constant_values=300)),
}
TRANSPARENT["16 bits, a level"].info["transparency"] = 300


@pytest.mark.parametrize("form", TRANSPARENT)
def test_transparency_is_white(form: str) -> None:
    seen = as_seen(TRANSPARENT[form])
    assert seen.mode == "RGB" and seen.size == (24, 16)
    assert seen.getpixel((2, 2)) == WHITE and seen.getpixel((10, 6)) == BLACK


def test_half_transparent_ink_is_mixed_with_white() -> None:
    assert as_seen(Image.new("RGBA", (2, 2), (0, 0, 0, 51))).getpixel((0, 0)) == (204, 204, 204)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "HSV"])
def test_other_modes_are_converted_as_before(mode: str) -> None:
    image = Image.effect_noise((30, 20), 90).convert("RGB").convert(mode)
    assert as_seen(image).tobytes() == image.convert("RGB").tobytes()


def test_16_bits_become_their_upper_8() -> None:
    values = np.arange(65536).reshape(256, 256)
    expected = (values >> 8).ravel().tolist()
    stored = sixteen_bits(values)
    swapped = Image.frombytes("I;16B", stored.size, values.astype(">u2").tobytes())
    wider = [Image.fromarray(values.astype(kind)) for kind in (np.int32, np.float32)]
    for image in (stored, swapped, *wider):
        assert levels(image) == expected, image.mode
    reopened = Image.open(io.BytesIO(encoded(stored)))
    assert reopened.mode == "I;16" and levels(reopened) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0, -1.0, np.nan, np.inf], [0, 127, 255, 0, 0, 0]),
        ([0.0, 128.0, 255.0], [0, 128, 255]),
        ([0.0, 256.0, 65535.0], [0, 1, 255]),
        ([0.0, 1e6], [0, 255]),
        ([0.0, 0.0], [0, 0]),
        ([np.nan], [0]),
    ],
)
def test_floats_are_scaled_by_the_range_that_holds_them(values: list[float], expected: list[int]) -> None:
    assert levels(Image.fromarray(np.asarray([values], dtype=np.float32))) == expected


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(10))
def test_an_image_is_turned_upright_once(kind: str, orientation: int) -> None:
    image = Image.new("RGB", (32, 16), "white")
    ImageDraw.Draw(image).rectangle((0, 0, 7, 7), fill="black")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    content = io.BytesIO(encoded(image, kind, exif=exif))
    upright = ImageOps.exif_transpose(Image.open(content))
    assert as_seen(Image.open(content)).tobytes() == upright.convert("RGB").tobytes()


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_turns_nothing() -> None:
    image = Image.new("RGB", (32, 16))
    for exif in (b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0garbage"):
        opened = Image.open(io.BytesIO(encoded(image, "JPEG", exif=exif)))
        assert as_seen(opened).size == (32, 16) and not is_turned(opened)
    image.info["Raw profile type exif"] = "\nexif\n 3\nno hexadecimal number"
    assert as_seen(image).size == (32, 16)


def test_an_example_opens_as_its_record_was_read() -> None:
    reading = read(encoded(TRANSPARENT["RGBA"]))
    assert open_image(reading.example).tobytes() == as_seen(TRANSPARENT["RGBA"]).tobytes()


def test_signatures_tell_transparent_and_16_bit_drawings_apart() -> None:
    forms = [drawn("RGBA", (0, 0, 0, 0), (0, 0, 0, alpha)) for alpha in (0, 100, 255)]
    forms += [sixteen_bits(np.full((16, 24), value)) for value in (300, 30_000, 60_000)]
    assert len({read(encoded(image)).signature for image in forms}) == len(forms)
    black = drawn("RGB", WHITE, BLACK)
    assert read(encoded(black)).signature == read(encoded(forms[2])).signature


@given(st.integers(1, 40), st.integers(1, 9000), st.booleans())
def test_a_figure_is_left_out_if_the_processor_refuses_its_sides(short: int, long: int, upright: bool) -> None:
    size = (short, long) if upright else (long, short)
    try:
        smart_resize(*size)
    except ValueError:
        with pytest.raises(LeftOutError, match=rf"'r1'.* {size[0]}×{size[1]} px") as left_out:
            read(encoded(Image.new("1", size)))
        assert left_out.value.reason == "figure too narrow"
    else:
        read(encoded(Image.new("1", size)))


def test_boxes_of_a_turned_figure_are_left_out_and_its_panels_are_found_upright() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    image = Image.new("RGB", (300, 200), "white")
    ImageDraw.Draw(image).rectangle((20, 30, 120, 170), outline="black")
    turned = encoded(image, exif=exif)
    with pytest.raises(LeftOutError, match="EXIF turns") as left_out:
        read(turned, **ONE_BOX)
    assert left_out.value.reason == "boxes of a turned figure"
    assert read(encoded(image), **ONE_BOX).example.figure.boxes == {"x_values": {"a": (0, 0, 150, 200)}}
    assert open_image(read(turned).example).size == (200, 300)
    (panel,) = read(turned, "charxiv").example.figure.boxes["subfigures"].values()
    left, top, right, bottom = panel
    # The frame's corners, turned clockwise: x becomes y, and y is counted from the other side.
    assert left <= 199 - 170 and top <= 20 and right > 199 - 30 and bottom > 120
    assert right - left < 150 and bottom - top < 110


def test_a_damaged_figure_is_left_out() -> None:
    whole = encoded(drawn("RGB", WHITE, BLACK))
    for damaged in (whole[:40], whole[:60], b"", whole.replace(b"IDAT", b"IDAX")):
        with pytest.raises(LeftOutError) as left_out:
            read(damaged)
        assert left_out.value.reason == "unreadable figure"
