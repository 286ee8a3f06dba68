"""The parser of VTool-R1's tool syntax, Python in a fenced block, for the evaluation of its released weights.

VTool-R1 (arXiv 2505.19255) and ReFocus run what the model writes. Here the block is data: its syntax tree is walked and
nothing is run. A block may assign names, hold strings and lists of strings, call the listed tools on the image that it
is given, and ``display`` an image. The image displayed last says which calls were made, in their order.

As in VTool-R1, only a turn's first block counts, and ``\\_`` is read as ``_``. Unlike there, other backslashes stay,
an edit of one copy is not seen in another, and a label may stand in a variable.
"""

from __future__ import annotations

import ast
import warnings

from iapo.tools.parsing import quoted
from iapo.tools.registry import TOOLS
from iapo.types import FigureKind, ParsedTurn, ToolCall

BLOCK_OPENING = "```python"
"""Opening of a block of calls; a turn that contains it attempts a call."""

_BLOCK_END = "```"
_IMAGE_NAMES = ("image_1", "image")
"""Names of the figure in VTool-R1's prompts and in its tools."""
_MAX_BLOCK = 10_000
"""Longest block that is read, characters; a call takes some hundred."""
_CHART_FAMILY: dict[FigureKind, str] = {"h_bar": "y_values", "v_bar": "x_values"}
"""Kind of chart → the labels that VTool-R1 hands to its table tools as columns and as rows."""

_Image = tuple[ToolCall, ...]
"""An image, as the calls that made it from the figure."""
_Value = _Image | list[str] | str | None
"""An image, labels, one label, or what ``display`` returns."""


def parse_legacy_turn(text: str) -> ParsedTurn:
    """Parse the tool calls of one turn in VTool-R1's syntax. Never raises or executes, and runs in linear time.

    Args:
        text: the turn as the model wrote it; only its first block of Python is read.

    Returns:
        The calls behind the image displayed last, which are none for the figure itself, and no error; or no calls and
        the first error. A turn without a block has no calls and no error.
    """
    start = text.find(BLOCK_OPENING)
    if start < 0:
        return ParsedTurn([], None)
    start += len(BLOCK_OPENING)
    end = text.find(_BLOCK_END, start)
    if end < 0:
        return ParsedTurn([], "found ```python without ```; close the block")
    try:
        return ParsedTurn(list(_displayed_image(text[start:end].replace("\\_", "_"))), None)
    except _CallError as error:
        return ParsedTurn([], str(error))
    except RecursionError:
        return ParsedTurn([], "found calls nested too deeply; expected a call or two")


def for_figure(call: ToolCall, kind: FigureKind) -> ToolCall:
    """Return a call as VTool-R1 carries it out on a kind of figure.

    Its prompt describes the tools for columns and rows whatever the figure, and on a bar chart both are given the
    boxes of the bars' labels.

    Args:
        call: from :func:`parse_legacy_turn`.
        kind: kind of the figure that it is made on.
    """
    family = _CHART_FAMILY.get(kind)
    if family is None or call.family not in ("columns", "rows"):
        return call
    return ToolCall(f"focus_on_{family}_with_{call.mode}", call.labels)


class _CallError(ValueError):
    """A block with something else than calls in it; the message says what."""


def _displayed_image(code: str) -> _Image:
    """Return the image that a block displays last."""
    program = _Program()
    for statement in _syntax_tree(code).body:
        program.read(statement)
    if program.displayed is None:
        raise _CallError("found no display(...); expected the edited image to be displayed")
    return program.displayed


def _syntax_tree(code: str) -> ast.Module:
    if len(code) > _MAX_BLOCK:
        raise _CallError(f"found a block of {len(code)} characters; expected at most {_MAX_BLOCK}")
    try:
        with warnings.catch_warnings():
            # A label such as "50\%" is an invalid escape, which Python only warns of.
            warnings.simplefilter("ignore")
            return ast.parse(code.strip())
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise _CallError(f"found a block that is not Python ({type(error).__name__}): {quoted(code)}") from None


class _Program:
    """The values of a block's names so far, and the image that it displays."""

    def __init__(self) -> None:
        self._values: dict[str, _Value] = dict.fromkeys(_IMAGE_NAMES, ())
        self.displayed: _Image | None = None

    def read(self, statement: ast.stmt) -> None:
        """Follow one statement."""
        if isinstance(statement, ast.Expr):
            self._value(statement.value)
        elif isinstance(statement, ast.Assign):
            value = self._value(statement.value)
            for target in statement.targets:
                if not isinstance(target, ast.Name):
                    raise _CallError(f"found an assignment to {_described(target)}; expected a name")
                self._values[target.id] = value
        else:
            raise _CallError(f"found {_described(statement)}; expected assignments, tools and display only")

    def _value(self, node: ast.expr) -> _Value:
        if isinstance(node, ast.Name):
            if node.id not in self._values:
                raise _CallError(f"found {_described(node)}, which stands for nothing here")
            return self._values[node.id]
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return _encodable(node.value)
        if isinstance(node, ast.List):
            return [self._label(element) for element in node.elts]
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            return self._call(node.func.id, node)
        raise _CallError(f"found {_described(node)}; expected names, strings, lists of strings, tools and display only")

    def _call(self, name: str, call: ast.Call) -> _Image | None:
        if name == "display":
            if len(call.args) != 1 or call.keywords:
                raise _CallError(f"found {_described(call)}; display takes one image")
            self.displayed = self._image(call.args[0])
            return None
        if name not in TOOLS:
            raise _CallError(f"found a call of {quoted(name)}; no such tool")
        tool = TOOLS[name]
        parameters = ("image", tool.parameter, f"all_{tool.family}_bounding_boxes")
        named = [(keyword.arg, keyword.value) for keyword in call.keywords]
        given = dict([*zip(parameters, call.args, strict=False), *named])
        if len(call.args) + len(named) != len(parameters) or set(given) != set(parameters):
            raise _CallError(f"found {_described(call)}; {name} takes {', '.join(parameters)}")
        image, labels, boxes = (given[parameter] for parameter in parameters)
        if not isinstance(boxes, ast.Name):
            # The boxes are the figure's own, whatever name they are given.
            raise _CallError(f"found {_described(boxes)} as boxes; expected their name")
        return (*self._image(image), ToolCall(name, tuple(self._labels(labels))))

    def _image(self, node: ast.expr) -> _Image:
        value = self._value(node)
        if not isinstance(value, tuple):
            raise _CallError(f"found {_described(node)}; expected an image")
        return value

    def _labels(self, node: ast.expr) -> list[str]:
        value = self._value(node)
        if not isinstance(value, list):
            raise _CallError(f"found {_described(node)}; expected a list of strings")
        return value

    def _label(self, element: ast.expr) -> str:
        value = self._value(element)
        if not isinstance(value, str):
            raise _CallError(f"found {_described(element)} in a list; expected strings")
        return value


def _encodable(text: str) -> str:
    """Return a string that can be stored; one with half of a surrogate pair cannot, and no figure has such a label."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _CallError(f"found {quoted(text)}, which is no text; expected whole characters") from None
    return text


def _described(node: ast.AST) -> str:
    """Return a piece of code in a few words, however deeply it is nested."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return f"a call of {quoted(node.func.id)} with {len(node.args) + len(node.keywords)} arguments"
    if isinstance(node, ast.Name):
        return f"the name {quoted(node.id)}"
    return f"{'an' if type(node).__name__[0] in 'AEIOU' else 'a'} {type(node).__name__}"
