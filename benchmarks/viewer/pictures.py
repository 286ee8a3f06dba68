"""The figures and the edits of the viewer, drawn again from recorded calls by the project's own tools.

An edit is stored as a *layer*: the rectangle that the tool changed, transparent where it changed nothing. Laid over the
figure it is the edited figure, in a tenth of the bytes, and equal layers are stored once.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from iapo.data.prompts import open_image
from iapo.tools.drawing import apply
from iapo.tools.legacy_calls import BLOCK_OPENING, for_figure, parse_legacy_turn
from iapo.tools.parsing import parse_turn
from iapo.types import Example, ToolCall

LARGEST_SIDE = 640
"""Longer side of a figure on the page at most, pixels; larger ones are reduced, and then stored with loss."""

_LOSSY_QUALITY = 60
_EFFORT = 3
"""Of WebP's six levels: more takes twice the time for 2 % of the bytes."""


class DrawingError(ValueError):
    """A recorded call that cannot be drawn; the message says which and why."""


def turn_calls(turn: str, example: Example) -> list[ToolCall]:
    """Return the calls of an assistant's turn on a figure, in this project's syntax or in VTool-R1's; [] for none.

    Args:
        turn: the text as the model wrote it; it is parsed against the closed list of tools and never executed.
        example: the question with its figure.
    """
    if BLOCK_OPENING in turn:
        return [for_figure(call, example.figure.kind) for call in parse_legacy_turn(turn).calls]
    return parse_turn(turn).calls


class Pictures:
    """The pictures of one test set: a figure a question, and each distinct layer once."""

    def __init__(self) -> None:
        self.figures: list[str] = []
        """Base64 of WebP, question by question."""
        self._layers: dict[tuple[int, int, int, int, str], int] = {}
        self._example: Example | None = None
        self._drawn: dict[tuple[ToolCall, ...], int | None] = {}

    def add_figure(self, example: Example) -> tuple[int, int]:
        """Add a question's figure, on which :meth:`layer` then draws; return its width and height on the page."""
        self._example, self._image, self._drawn = example, open_image(example).convert("RGB"), {}
        self._shown = _reduced(self._image)
        self.figures.append(_webp(self._shown, lossless=self._is_whole))
        return self._shown.size

    @property
    def _is_whole(self) -> bool:
        return self._shown.size == self._image.size

    def layer(self, calls: Sequence[ToolCall]) -> int | None:
        """Return the number of the layer that calls draw on the figure added last; None where they change nothing.

        Raises:
            DrawingError: if the figure does not support a call.
        """
        key = tuple(calls)
        if key not in self._drawn:
            self._drawn[key] = self._draw(key)
        return self._drawn[key]

    def _draw(self, calls: tuple[ToolCall, ...]) -> int | None:
        assert self._example is not None, "add a figure first"
        result = apply(self._image, self._example.figure, calls)
        if result.error is not None:
            raise DrawingError(f"{self._example.example_id}: {result.error}")
        edited = np.asarray(_reduced(result.image))
        changed = (edited != np.asarray(self._shown)).any(axis=-1)
        if not changed.any():
            return None
        left, top, right, bottom = _bounds(changed)
        layer = np.dstack([edited * changed[..., None], changed * 255]).astype(np.uint8)[top:bottom, left:right]
        stored = _webp(Image.fromarray(layer), lossless=self._is_whole)
        return self._layers.setdefault((left, top, right - left, bottom - top, stored), len(self._layers))

    def as_json(self) -> dict[str, Any]:
        """Return the figures, and the layers as left, top, width and height in the figure's pixels and the image."""
        return {"figures": self.figures, "layers": [list(layer) for layer in self._layers]}


def _reduced(image: Image.Image) -> Image.Image:
    image = image.convert("RGB")
    scale = LARGEST_SIDE / max(image.size)
    if scale >= 1:
        return image
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BOX)


def _bounds(changed: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the smallest rectangle with all true entries; right and bottom exclusive."""
    rows, columns = (np.flatnonzero(changed.any(axis=axis)) for axis in (1, 0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _webp(image: Image.Image, *, lossless: bool) -> str:
    """Return an image in base64."""
    content = io.BytesIO()
    quality = 100 if lossless else _LOSSY_QUALITY
    image.save(content, "WEBP", lossless=lossless, quality=quality, method=_EFFORT)
    return base64.b64encode(content.getvalue()).decode()
