"""What is wrong with a config file, one line each: what was found, what was expected, what to write."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic_core import ErrorDetails

_MAX_NAMED = 4
"""Most places named for a key that stands in several sections."""


def problem(detail: ErrorDetails, root: type) -> str:
    """Return the line on one of pydantic's errors.

    Args:
        detail: the error.
        root: class of the whole configuration.
    """
    *parents, last = detail["loc"]
    key = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "unexpected_keyword_argument":
        return f"{key}: unknown key; {_hint(str(last), parents, root)} (config/README.md)"
    return f"{key}: found {detail['input']!r}{_expected(detail, root)} (config/README.md)"


def _hint(name: str, parents: Sequence[int | str], root: type) -> str:
    """Return where a key stands that was written elsewhere, else the nearest valid one, else all of them."""
    valid = _keys(_section(parents, root))
    near = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    elsewhere = [path for path in _paths(root) if path.rpartition(".")[2] == name]
    if elsewhere and not parents:
        nearest = sorted(elsewhere, key=lambda path: path.count("."))[:_MAX_NAMED]
        return f"did you mean {' or '.join(map(repr, nearest))}?"
    return f"did you mean {near[0]!r}?" if near else f"valid keys: {', '.join(valid)}"


def _expected(detail: ErrorDetails, root: type) -> str:
    if detail["type"] == "tuple_type":
        return f", expected a list: write [{detail['input']}]"
    if detail["type"] == "dataclass_type":
        valid = _keys(_section(detail["loc"], root))
        return f", expected a section: write {{KEY: ...}} with any of {', '.join(valid)}"
    return "; " + detail["msg"][0].lower() + detail["msg"][1:]


def _section(path: Sequence[int | str], root: type) -> Any:
    """Return the class of the section at ``path``."""
    section: Any = root
    for part in path:
        # The key of a table, such as a variant's name, leads to the table's sections.
        table = typing.get_origin(section) is dict
        section = typing.get_args(section)[1] if table else _class(typing.get_type_hints(section)[str(part)])
    return section


def _class(hint: Any) -> Any:
    """Return the class of a section that may be null, and every other type as it is."""
    inner = typing.get_args(hint) if isinstance(hint, types.UnionType) else ()
    return next((each for each in inner if dataclasses.is_dataclass(each)), hint)


def _keys(section: Any) -> list[str]:
    """Return the valid keys of a section."""
    return [field.name for field in dataclasses.fields(section)]


def _paths(section: Any) -> Iterator[str]:
    """Yield the dotted keys of a section and of those below it."""
    for name, hint in typing.get_type_hints(section).items():
        yield name
        if dataclasses.is_dataclass(inner := _class(hint)):
            yield from (f"{name}.{below}" for below in _paths(inner))
