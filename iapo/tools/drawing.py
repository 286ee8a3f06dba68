"""The image edits that tool calls perform: masking, framing and highlighting labelled boxes of a figure.

Every edit is drawn on a copy, so a rollout never changes the dataset's image.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from PIL import Image, ImageDraw

from iapo.tools.parsing import nearest_hint, quoted
from iapo.types import Box, Figure, ToolCall, ToolResult

_FRAME_WIDTH = 5
"""Line width of a red frame, pixels."""
_FRAME_INSET = 2
"""Distance of a frame inside its box, pixels."""
_HIGHLIGHT_RGBA = (255, 0, 0, 50)


def is_noop(figure: Figure, call: ToolCall) -> bool:
    """Return whether a call leaves the figure unchanged: it lists no label, or a mask that lists every label."""
    labels = figure.boxes.get(call.family, {})  # type: ignore[call-overload]
    return not call.labels or (call.mode == "mask" and set(labels) <= set(call.labels))


def apply(image: Image.Image, figure: Figure, calls: Sequence[ToolCall]) -> ToolResult:
    """Apply tool calls in order, each to the output of the previous one.

    Args:
        image: the figure's image; not modified.
        figure: the figure's labels and their boxes, in pixels of ``image``.
        calls: calls as :func:`iapo.tools.parsing.parse_turn` returns them.

    Returns:
        The edited copy (RGB) and no error; or ``image`` itself and an error message if a call names a family or a
        label that the figure lacks.
    """
    edited = image.convert("RGB")
    if edited is image:
        edited = image.copy()
    for call in calls:
        error = _unknown_label_error(figure, call)
        if error is not None:
            return ToolResult(image, error)
        if not is_noop(figure, call):
            edited = _focus(edited, figure, call)
    return ToolResult(edited, None)


def is_right(figure: Figure, call: ToolCall, labels: Sequence[str]) -> bool:
    """Return whether a figure supports a call and the call names exactly these labels, whatever its mode of drawing.

    Args:
        figure: the figure's labels.
        call: a validated call; one of another family fails, though it may name the labels.
        labels: the annotated labels.
    """
    return call.names(labels) and _unknown_label_error(figure, call) is None


def _unknown_label_error(figure: Figure, call: ToolCall) -> str | None:
    boxes = figure.boxes.get(call.family)  # type: ignore[call-overload]
    if not boxes:
        families = ", ".join(family for family, labels in figure.boxes.items() if labels) or "none"
        return f"this figure has no {call.family}; it has {families}"
    unknown = next((label for label in call.labels if label not in boxes), None)
    if unknown is None:
        return None
    known = ", ".join(list(boxes)[:10])
    return f"no {call.family} {quoted(unknown)}{nearest_hint(unknown, boxes)}; it has {known}"


def _focus(image: Image.Image, figure: Figure, call: ToolCall) -> Image.Image:
    boxes: Mapping[str, Box] = figure.boxes[call.family]  # type: ignore[index]
    listed = [box for label, box in boxes.items() if label in call.labels]
    if call.mode == "mask":
        others = [box for label, box in boxes.items() if label not in call.labels]
        return _masked(image, others, keep=listed)
    if call.mode == "draw":
        return _framed(image, listed)
    return _highlighted(image, listed)


def _masked(image: Image.Image, boxes: Sequence[Box], keep: Sequence[Box]) -> Image.Image:
    """White out ``boxes``, then restore ``keep``, so that an overlapping box never hides what is in focus."""
    masked = image.copy()
    draw = ImageDraw.Draw(masked)
    for box in _clipped(boxes, image):
        draw.rectangle(_inclusive(box), fill="white")
    for box in _clipped(keep, image):
        masked.paste(image.crop(box), box[:2])
    return masked


def _framed(image: Image.Image, boxes: Sequence[Box]) -> Image.Image:
    framed = image.copy()
    draw = ImageDraw.Draw(framed)
    for left, top, right, bottom in _clipped(boxes, image):
        outline = (
            left + _FRAME_INSET,
            top + _FRAME_INSET,
            right - _FRAME_INSET,
            bottom - _FRAME_INSET,
        )
        if outline[2] > outline[0] and outline[3] > outline[1]:
            draw.rectangle(_inclusive(outline), outline="red", width=_FRAME_WIDTH)
    return framed


def _highlighted(image: Image.Image, boxes: Sequence[Box]) -> Image.Image:
    overlay = Image.new("RGBA", image.size, (0, 0, 0, 0))
    draw = ImageDraw.Draw(overlay)
    for box in _clipped(boxes, image):
        draw.rectangle(_inclusive(box), fill=_HIGHLIGHT_RGBA)
    return Image.alpha_composite(image.convert("RGBA"), overlay).convert("RGB")


def _inclusive(box: Box) -> Box:
    """Return the box for PIL, whose rectangles include their right and bottom edges."""
    left, top, right, bottom = box
    return (left, top, right - 1, bottom - 1)


def _clipped(boxes: Iterable[Box], image: Image.Image) -> Iterator[Box]:
    """Yield the parts of boxes inside the image, without those that have none.

    The time that PIL takes to draw a frame grows with the box, not with the image.
    """
    for box in boxes:
        left, top = max(0, box[0]), max(0, box[1])
        right, bottom = min(image.width, box[2]), min(image.height, box[3])
        if right > left and bottom > top:
            yield left, top, right, bottom
