"""Rendering of tables as CSV, Markdown and LaTeX.

The CSV has the full table with six decimals; the other formats have its readable version.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from iapo.artifacts.files import atomic_write

FLOAT_FORMAT = "%.6f"
WIDTH = 100
"""Characters of a line in Markdown, as wide as terminals are."""
NOTHING = "–"
"""Text of a cell without a value."""


@dataclass(frozen=True)
class Table:
    """A table, in full and in its readable version."""

    name: str
    """Stem of its file names."""
    frame: pd.DataFrame
    """The full table, as in the CSV."""
    caption: str
    """One or two sentences: what is measured, how, and over what."""
    shown: pd.DataFrame
    """The readable version; every cell is text."""
    notes: Sequence[str] = field(default_factory=tuple)
    """Paragraphs below the caption."""
    keys: int = 1
    """Number of columns, the first, that name a row."""


def write(table: Table, folder: Path) -> None:
    """Write ``<name>.csv``, ``.md`` and ``.tex``, each atomically; equal tables give equal bytes."""
    write_csv(table.frame, folder / f"{table.name}.csv")
    with atomic_write(folder / f"{table.name}.md") as tmp:
        tmp.write_text(markdown(table))
    with atomic_write(folder / f"{table.name}.tex") as tmp:
        tmp.write_text(latex(table))


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV, with six decimals and Unix line ends."""
    with atomic_write(path) as tmp:
        frame.to_csv(tmp, index=False, float_format=FLOAT_FORMAT, lineterminator="\n")


def each_value(values: Iterable[float]) -> str:
    """Return a cell of a CSV with one value a run, as :func:`each_run` reads it."""
    return " ".join(FLOAT_FORMAT % value for value in values)


def markdown(table: Table) -> str:
    """Return the table in Markdown that fits a terminal, followed by its caption and notes.

    A wide table comes in parts below each other, each with the columns that name a row.
    """
    texts = [_wrapped(text) for text in (table.caption, *table.notes)]
    return "\n\n".join([*map(_pipes, _parts(table.shown, table.keys)), *texts]) + "\n"


def _parts(shown: pd.DataFrame, keys: int) -> Iterator[pd.DataFrame]:
    """Columns of a table, as many at a time as fit."""
    names, rest = list(shown.columns[:keys]), list(shown.columns[keys:])
    while rest:
        fit = (count for count in range(len(rest), 1, -1) if _width(shown[names + rest[:count]]) <= WIDTH)
        taken = next(fit, 1)
        yield shown[names + rest[:taken]]
        rest = rest[taken:]


def _width(frame: pd.DataFrame) -> int:
    return len(_pipes(frame).partition("\n")[0])


def _pipes(frame: pd.DataFrame) -> str:
    """Return a table of text in Markdown; `tabulate` pads each heading by two, which costs a table a column."""
    rows = [list(map(str, row)) for row in (frame.columns, *frame.to_numpy())]
    widths = [max(3, *map(len, column)) for column in zip(*rows, strict=True)]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _wrapped(text: str) -> str:
    """Return a paragraph in lines that fit; a command stays in one, to be copied."""
    unbroken = re.sub(r"`[^`]+`", lambda code: code[0].replace(" ", "\0"), text)
    return textwrap.fill(unbroken, WIDTH, break_long_words=False, break_on_hyphens=False).replace("\0", " ")


def latex(table: Table) -> str:
    """Return the table as a LaTeX float with booktabs rules; needs ``\\usepackage{booktabs}``."""
    body = (
        table.shown.map(_tex)
        .rename(columns=_tex)
        .to_latex(index=False, escape=False, column_format="l" + "r" * (len(table.shown.columns) - 1))
    )
    return "\n".join(
        [
            "\\begin{table}",
            "\\centering\\small",
            body.rstrip(),
            f"\\caption{{{_tex(table.caption)}}}",
            "\\end{table}",
            "",
        ]
    )


_TEX = {
    "\\": r"\textbackslash{}",
    "−": "$-$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "×": r"$\times$",
    "–": "--",
    "~": r"\textasciitilde{}",
}
_TEX |= {sign: f"\\{sign}" for sign in "&%$#_{}"}


def _tex(text: object) -> str:
    return "".join(_TEX.get(character, character) for character in str(text).replace("`", "").replace("**", ""))


def percent(value: object, digits: int = 1) -> str:
    """Format a fraction in percent: ``0.675`` → ``67.5``; a dash for a missing value."""
    return NOTHING if _missing(value) else f"{100 * float(str(value)):.{digits}f}"


def points(value: object) -> str:
    """Format a fraction in percentage points with its sign; a dash for a missing value."""
    return NOTHING if _missing(value) else f"{100 * float(str(value)):+.1f}"


def interval(middle: object, low: object, high: object, *, signed: bool = False) -> str:
    """Format an estimate with its interval: ``67.5 [60.3, 74.7]``; a dash for a missing estimate."""
    how = points if signed else percent
    return NOTHING if _missing(middle) else f"{how(middle)} [{how(low)}, {how(high)}]"


def each_run(by_seed: object, form: Callable[[float], str]) -> str:
    """Format every run's value of a cell that holds them all, separated by spaces; a dash for none."""
    return " ".join(form(float(value)) for value in str(by_seed).split()) or NOTHING


def number(value: object, digits: int = 2) -> str:
    """Format a number; a dash for a missing value."""
    return NOTHING if _missing(value) else f"{float(str(value)):.{digits}f}"


def _missing(value: object) -> bool:
    return value is None or (isinstance(value, float | np.floating) and bool(np.isnan(value)))
