"""Tables as CSV, Markdown and LaTeX. CSV holds every digit that is kept; the other two are for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd

from iapo.provenance import atomic_write

_DECIMALS = "%.4f"
NOTHING = "–"


@dataclass(frozen=True)
class Table:
    """A table to be written three times."""

    name: str
    """Of its files."""
    frame: pd.DataFrame
    """What the CSV holds."""
    caption: str
    """One or two sentences: what is counted, how, and over what."""
    shown: pd.DataFrame
    """What people read: text cells."""
    notes: Sequence[str] = field(default_factory=tuple)
    """Lines beneath it."""


def write(table: Table, folder: Path) -> None:
    """``<name>.csv``, ``.md`` and ``.tex``, each whole or not at all; equal tables are equal bytes."""
    write_csv(table.frame, folder / f"{table.name}.csv")
    with atomic_write(folder / f"{table.name}.md") as partial:
        partial.write_text(markdown(table))
    with atomic_write(folder / f"{table.name}.tex") as partial:
        partial.write_text(latex(table))


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """Four decimals and plain line ends."""
    with atomic_write(path) as partial:
        frame.to_csv(partial, index=False, float_format=_DECIMALS, lineterminator="\n")


def markdown(table: Table) -> str:
    """The table with its caption and notes beneath."""
    lines = [table.shown.to_markdown(index=False, disable_numparse=True), "", table.caption]
    return "\n".join([*lines, *(line for note in table.notes for line in ("", note))]) + "\n"


def html(tables: Sequence[Table]) -> str:
    """All tables on one page that needs nothing else, for the report."""
    parts = [
        f"<h2>{escape(table.name.replace('_', ' '))}</h2>\n{table.shown.to_html(index=False, border=0)}\n"
        + "\n".join(f"<p>{escape(text.replace('**', ''))}</p>" for text in (table.caption, *table.notes))
        for table in tables
    ]
    return f"<!doctype html>\n<meta charset='utf-8'>\n<title>Tables</title>\n<style>{_STYLE}</style>\n" + "\n".join(
        parts
    )


_STYLE = (
    "body{font:15px/1.4 sans-serif;margin:2em}p{max-width:60em}table{border-collapse:collapse}"
    "th,td{padding:.25em .7em;text-align:right;border-bottom:1px solid #ddd}"
    # An interval broken over three lines cannot be read down a column.
    "td{white-space:nowrap}"
    "th:first-child,td:first-child{text-align:left}"
)


def latex(table: Table) -> str:
    """A float with booktabs rules; needs ``\\usepackage{booktabs}``."""
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
    """``0.675`` → ``67.5``; a dash for what is missing."""
    return NOTHING if _missing(value) else f"{100 * float(str(value)):.{digits}f}"


def points(value: object) -> str:
    """The same with its sign."""
    return NOTHING if _missing(value) else f"{100 * float(str(value)):+.1f}"


def interval(middle: object, low: object, high: object, *, signed: bool = False) -> str:
    """``67.5 [60.3, 74.7]``."""
    how = points if signed else percent
    return NOTHING if _missing(middle) else f"{how(middle)} [{how(low)}, {how(high)}]"


def number(value: object, digits: int = 2) -> str:
    """A plain number; a dash for what is missing."""
    return NOTHING if _missing(value) else f"{float(str(value)):.{digits}f}"


def _missing(value: object) -> bool:
    return value is None or (isinstance(value, float | np.floating) and bool(np.isnan(value)))
