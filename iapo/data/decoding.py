"""Decoding of figures into the image that a reader sees: upright, transparency on white, 8 bits per channel.

Pillow's plain conversion to RGB loses the pixels behind transparency and all but two levels of a 16-bit image.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

import numpy as np
from PIL import ExifTags, Image

_TURNS: Mapping[object, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation → what turns the stored image upright; other values leave it as it is."""

_RANGES: tuple[tuple[float, float], ...] = ((1, 255), (255, 1), (65535, 1 / 256))
"""Largest value of an image of 32-bit integers or floats → factor to 8 bits: fractions, 8-bit and 16-bit levels."""


def as_seen(image: Image.Image) -> Image.Image:
    """Return the image as a reader sees it, in RGB.

    Transparent pixels are laid on white. 16-bit levels are divided by 256; images of 32-bit integers or floats are
    scaled by the smallest of the ranges 0 to 1, 0 to 255 and 0 to 65535 that holds their largest value, beyond that
    by the value itself. An image with an EXIF orientation is turned upright, which may swap its sides.

    Args:
        image: an image in any mode; not modified.

    Returns:
        A new image, 8 bits per channel.

    Raises:
        OSError: if the image is truncated.
        ValueError: if Pillow cannot convert its mode.
    """
    # TIFF files are turned by Pillow as they are loaded, which removes their orientation.
    image.load()
    if image.mode.startswith(("I", "F")):
        seen = _eight_bits(image)
    elif image.has_transparency_data:
        drawing = image.convert("RGBA")
        seen = Image.alpha_composite(Image.new("RGBA", image.size, "white"), drawing).convert("RGB")
    else:
        seen = image.convert("RGB")
    turn = _turn(image)
    return seen if turn is None else seen.transpose(turn)


def is_turned(image: Image.Image) -> bool:
    """Return whether :func:`as_seen` turns or mirrors this loaded image."""
    return _turn(image) is not None


def _turn(image: Image.Image) -> Image.Transpose | None:
    # ImageOps.exif_transpose also writes the EXIF block anew, which fails where any of its fields is damaged.
    try:
        return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    except (OSError, SyntaxError, TypeError, ValueError, struct.error):
        return None


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale an image of one channel with more than 8 bits."""
    values = np.asarray(image)
    levels = values >> 8 if image.mode.startswith("I;16") else _scaled(values.astype(np.float32))
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        levels = np.where(values == transparent, 255, levels)
    return Image.fromarray(levels.astype(np.uint8)).convert("RGB")


def _scaled(values: np.ndarray) -> np.ndarray:
    """Scale float32 values to levels from 0 to 255; negative values and those that are not finite become 0."""
    values = np.nan_to_num(values, nan=0, posinf=0, neginf=0).clip(min=0)
    largest = float(values.max())
    factor = next((factor for limit, factor in _RANGES if largest <= limit), 256 / max(largest, 1))
    return (values * np.float32(factor)).clip(max=255)
