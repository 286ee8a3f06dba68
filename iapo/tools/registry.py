"""The closed list of image-editing tools and which of them each kind of figure offers.

A tool is a family of labels to focus on (table rows, x values, …) times a mode of drawing (mask, draw, highlight):
the twelve tools of ReFocus (arXiv 2501.05452), plus a mask over sub-figures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from iapo.types import FigureKind

_FAMILY_NOUNS = {
    "columns": "columns of the table",
    "rows": "rows of the table",
    "x_values": "values on the x axis",
    "y_values": "values on the y axis",
    "subfigures": "sub-figures",
}

_MODE_SENTENCES = {
    "mask": "Whites out the {} that are not listed",
    "draw": "Draws a red frame around the listed {}",
    "highlight": "Lays a translucent red over the listed {}",
}


@dataclass(frozen=True)
class Tool:
    """One entry of the closed list."""

    name: str
    """``focus_on_<family>_with_<mode>``."""
    family: str
    """The kind of label to focus on, e.g. ``rows``; a key of :attr:`iapo.types.Figure.boxes`."""
    mode: str
    """How the focus is drawn: ``mask``, ``draw`` or ``highlight``."""
    parameter: str
    """Name of the tool's only argument, a list of labels."""
    description: str
    """One sentence, shown to the model in the prompt's tool definitions."""


def _tool(family: str, mode: str) -> Tool:
    description = f"{_MODE_SENTENCES[mode].format(_FAMILY_NOUNS[family])} and returns the edited image."
    return Tool(f"focus_on_{family}_with_{mode}", family, mode, f"{family}_to_focus_on", description)


TOOLS: Mapping[str, Tool] = {
    tool.name: tool
    for tool in [
        *(
            _tool(family, mode)
            for family in ("columns", "rows", "x_values", "y_values")
            for mode in ("mask", "draw", "highlight")
        ),
        _tool("subfigures", "mask"),
    ]
}
"""Tool name → tool: the twelve of ReFocus and the sub-figure mask."""


_FAMILIES: Mapping[FigureKind, tuple[str, ...]] = {
    "h_bar": ("x_values", "y_values"),
    "v_bar": ("x_values", "y_values"),
    "table": ("columns", "rows"),
    "subfigures": ("subfigures",),
}


def tools_for(kind: FigureKind) -> tuple[Tool, ...]:
    """Return the tools offered for a kind of figure: axis tools for charts, row and column tools for tables."""
    return tuple(tool for tool in TOOLS.values() if tool.family in _FAMILIES[kind])
