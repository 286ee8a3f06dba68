"""The image-editing tools: the closed list of them, the parser of tool calls, and the drawing.

A model's text is validated against the list and never executed. Nothing here needs torch.
"""

from iapo.tools.drawing import apply
from iapo.tools.parsing import canonical, parse_turn, render_call
from iapo.tools.registry import TOOLS, Tool, tools_for

__all__ = ["TOOLS", "Tool", "apply", "canonical", "parse_turn", "render_call", "tools_for"]
