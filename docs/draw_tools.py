"""Draw docs/tools.png: every tool on a chart, a table and a figure of panels, from the mini data."""

import io
from pathlib import Path

from PIL import Image, ImageDraw

from iapo.data.ingest import find_panels
from iapo.data.mini_world.figures import draw, figure_grid
from iapo.tools.drawing import apply
from iapo.tools.registry import tools_for
from iapo.types import Box, Family, Figure, FigureKind, ToolCall

_SCALE = 3
_WIDTH, _HEIGHT = 330, 300
_LABELS, _VALUES = ["Italy", "Peru", "Chile"], [60, 30, 10]


def figures() -> list[tuple[Image.Image, Figure]]:
    """One picture a kind, enlarged so that frames are seen as on figures of real size."""
    rows: dict[FigureKind, tuple[str, dict[Family, dict[str, Box]]]] = {
        "h_bar": ("h_bar", {"y_values": {name: (0, 28 * i, 84, 28 * i + 28) for i, name in enumerate(_LABELS)}}),
        "v_bar": ("v_bar", {"x_values": {name: (28 * i, 0, 28 * i + 28, 84) for i, name in enumerate(_LABELS)}}),
        "table": (
            "vwtq",
            {
                "rows": {name: (0, 28 * i, 56, 28 * i + 28) for i, name in enumerate(_LABELS, start=1)},
                "columns": {"1997": (28, 0, 56, 112)},
            },
        ),
    }
    made = []
    for kind, (test_set, boxes) in rows.items():
        image = draw(figure_grid(test_set, _LABELS, _VALUES, "1997", [False] * len(_LABELS)))
        made.append((image, Figure(kind, kind, boxes)))
    panels = draw(figure_grid("charxiv", (_LABELS * 4)[:10], (_VALUES * 4)[:10], "", [False] * 10))
    made.append((panels, Figure("panels", "subfigures", {"subfigures": find_panels(panels)})))
    return [_enlarged(image, figure) for image, figure in made]


def _enlarged(image: Image.Image, figure: Figure) -> tuple[Image.Image, Figure]:
    boxes: dict[Family, dict[str, Box]] = {
        family: {label: (a * _SCALE, b * _SCALE, c * _SCALE, d * _SCALE) for label, (a, b, c, d) in labels.items()}
        for family, labels in figure.boxes.items()
    }
    size = (image.width * _SCALE, image.height * _SCALE)
    return image.resize(size), Figure(figure.figure_id, figure.kind, boxes)


def contact_sheet() -> Image.Image:
    """Every tool that does something to these figures, named."""
    shots = [
        (tool.name, apply(image, figure, [ToolCall(tool.name, (list(figure.boxes[tool.family])[-1],))]).image)  # type: ignore[index]
        for image, figure in figures()
        for tool in tools_for(figure.kind)
        if tool.family in figure.boxes
    ]
    columns = 4
    sheet = Image.new("RGB", (columns * _WIDTH, -(-len(shots) // columns) * (_HEIGHT + 70)), "#d8d8d8")
    pen = ImageDraw.Draw(sheet)
    for i, (name, shot) in enumerate(shots):
        left, top = i % columns * _WIDTH + 5, i // columns * (_HEIGHT + 70) + 5
        pen.text((left, top), name, fill="black", font_size=14)
        sheet.paste(shot, (left, top + 22))
    return sheet


if __name__ == "__main__":
    buffer = io.BytesIO()
    contact_sheet().quantize(32).save(buffer, "PNG", optimize=True)
    Path(__file__).with_name("tools.png").write_bytes(buffer.getvalue())
