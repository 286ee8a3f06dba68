"""VTool-R1's tool syntax: Python in a fenced block, read as data so that its checkpoints can be evaluated.

VTool-R1 (arXiv 2505.19255) and ReFocus run what the model writes. Here the block's syntax tree is walked and nothing
is run: it may assign names, hold strings and lists of strings, call the listed tools on the image that it is given
and ``display`` an image. What is displayed last says which calls were asked for, in their order.

As in VTool-R1, only a turn's first block counts, and ``\\_`` is read as ``_``. Unlike there, other backslashes stay,
an edit of one copy is not seen in another, and a label may stand in a variable.
"""

from __future__ import annotations

import ast
import warnings

from iapo.tools import TOOLS
from iapo.types import ParsedTurn, ToolCall

_OPEN, _CLOSE = "```python", "```"
_IMAGES = ("image_1", "image")
"""What VTool-R1 and its prompts call the figure."""
_LONGEST = 10_000
"""Characters of a block that are read; a call takes some hundred."""
_QUOTED = 80
"""Longest piece of a model's text that an error repeats, characters."""

_Image = tuple[ToolCall, ...]
"""The calls that made an image from the figure."""
_Meaning = _Image | list[str] | str | None
"""An image, labels, one label, or what ``display`` returns."""


def parse_legacy_turn(text: str) -> ParsedTurn:
    """Read the tool calls of one turn in VTool-R1's syntax. Never raises or executes, and takes linear time.

    Args:
        text: what a model wrote.

    Returns:
        The calls behind the image that is displayed last and no error; or no call and the first error. A turn
        without a Python block has neither.
    """
    start = text.find(_OPEN)
    if start < 0:
        return ParsedTurn([], None)
    start += len(_OPEN)
    end = text.find(_CLOSE, start)
    if end < 0:
        return ParsedTurn([], "found ```python without ```; close the block")
    try:
        return ParsedTurn(list(_displayed(text[start:end].replace("\\_", "_"))), None)
    except _CallError as error:
        return ParsedTurn([], str(error))
    except RecursionError:
        return ParsedTurn([], "found calls nested too deeply; expected a call or two")


class _CallError(ValueError):
    """A block that asks for something else than calls; the text is what the model reads."""


def _displayed(code: str) -> _Image:
    """The calls behind what a block displays last."""
    program = _Program()
    for statement in _tree(code).body:
        program.take(statement)
    if program.shown is None:
        raise _CallError("found no display(...); expected the edited image to be displayed")
    return program.shown


def _tree(code: str) -> ast.Module:
    if len(code) > _LONGEST:
        raise _CallError(f"found a block of {len(code)} characters; expected at most {_LONGEST}")
    try:
        with warnings.catch_warnings():
            # A label such as "50\%" is an invalid escape, which Python only warns of.
            warnings.simplefilter("ignore")
            return ast.parse(code.strip())
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise _CallError(f"found a block that is not Python ({type(error).__name__}): {_quote(code)}") from None


class _Program:
    """What the names of a block stand for so far."""

    def __init__(self) -> None:
        self._names: dict[str, _Meaning] = dict.fromkeys(_IMAGES, ())
        self.shown: _Image | None = None

    def take(self, statement: ast.stmt) -> None:
        """Read one statement."""
        if isinstance(statement, ast.Expr):
            self._evaluate(statement.value)
        elif isinstance(statement, ast.Assign):
            meaning = self._evaluate(statement.value)
            for target in statement.targets:
                if not isinstance(target, ast.Name):
                    raise _CallError(f"found an assignment to {_shown(target)}; expected a name")
                self._names[target.id] = meaning
        else:
            raise _CallError(f"found {_shown(statement)}; expected assignments, tools and display only")

    def _evaluate(self, value: ast.expr) -> _Meaning:
        if isinstance(value, ast.Name):
            if value.id not in self._names:
                raise _CallError(f"found {_shown(value)}, which stands for nothing here")
            return self._names[value.id]
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            return value.value
        if isinstance(value, ast.List):
            return [self._label(element) for element in value.elts]
        if isinstance(value, ast.Call) and isinstance(value.func, ast.Name):
            return self._call(value.func.id, value)
        raise _CallError(f"found {_shown(value)}; expected names, strings, lists of strings, tools and display only")

    def _call(self, name: str, call: ast.Call) -> _Image | None:
        if name == "display":
            if len(call.args) != 1 or call.keywords:
                raise _CallError(f"found {_shown(call)}; display takes one image")
            self.shown = self._image(call.args[0])
            return None
        if name not in TOOLS:
            raise _CallError(f"found a call of {_quote(name)}; no such tool")
        tool = TOOLS[name]
        parameters = ("image", tool.parameter, f"all_{tool.family}_bounding_boxes")
        named = [(keyword.arg, keyword.value) for keyword in call.keywords]
        given = dict([*zip(parameters, call.args, strict=False), *named])
        if len(call.args) + len(named) != len(parameters) or set(given) != set(parameters):
            raise _CallError(f"found {_shown(call)}; {name} takes {', '.join(parameters)}")
        image, labels, boxes = (given[parameter] for parameter in parameters)
        if not isinstance(boxes, ast.Name):
            # The boxes are the figure's own, whatever they are called.
            raise _CallError(f"found {_shown(boxes)} as boxes; expected their name")
        return (*self._image(image), ToolCall(name, tuple(self._labels(labels))))

    def _image(self, value: ast.expr) -> _Image:
        meaning = self._evaluate(value)
        if not isinstance(meaning, tuple):
            raise _CallError(f"found {_shown(value)}; expected an image")
        return meaning

    def _labels(self, value: ast.expr) -> list[str]:
        meaning = self._evaluate(value)
        if not isinstance(meaning, list):
            raise _CallError(f"found {_shown(value)}; expected a list of strings")
        return meaning

    def _label(self, element: ast.expr) -> str:
        meaning = self._evaluate(element)
        if not isinstance(meaning, str):
            raise _CallError(f"found {_shown(element)} in a list; expected strings")
        return meaning


def _shown(node: ast.AST) -> str:
    """A piece of code in a few words, however deep it is."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return f"a call of {_quote(node.func.id)} with {len(node.args) + len(node.keywords)} arguments"
    if isinstance(node, ast.Name):
        return f"the name {_quote(node.id)}"
    return f"{'an' if type(node).__name__[0] in 'AEIOU' else 'a'} {type(node).__name__}"


def _quote(text: str) -> str:
    text = text.encode("utf-8", "replace").decode()
    return repr(text if len(text) <= _QUOTED else text[:_QUOTED] + "…")
