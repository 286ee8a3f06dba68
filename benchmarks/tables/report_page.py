"""The report: one offline page that opens on what the run found, with every table and figure below.

A number in the main table is a link to its questions in the viewer, which lies beside the page.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Collection, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from urllib.parse import urlencode

import pandas as pd

from benchmarks.results import Results
from benchmarks.tables.pages import contrast_lines
from benchmarks.tables.render import NOTHING, Table

_FIRST_FIGURES = {
    "forest": "Differences between methods",
    "learning_curves": "Accuracy on the dev questions while training",
}
"""Figures that are seen without unfolding anything, and what they show."""

_OTHER_FIGURES = {
    "dynamics": "Training, step by step",
    "block_shares": "Shares of the attribution",
    "image_help": "Did the edited image help?",
}

_HEADINGS = {"contrasts": "Comparisons declared beforehand", "calls": "What follows from the call"}
"""Headings of tables whose name says too little."""


def report_page(results: Results, tables: Mapping[str, Table], figures: Path) -> str:
    """Return the report as one HTML page, which loads nothing.

    Args:
        results: results of the profile; the page is to lie in its folder, beside the viewer.
        tables: name → table, ``main`` and ``contrasts`` among them.
        figures: folder of the drawn figures.
    """
    main = tables["main"]
    evaluated = {method for method, _ in results.config.evaluated_runs}
    others = [table for name, table in tables.items() if name != "main"]
    found = contrast_lines(tables["contrasts"].frame) or ["none: the methods of this run are in no such comparison."]
    return Template(_PAGE).substitute(
        profile=escape(results.config.profile),
        found="\n".join(f"<li>{_inline(line)}</li>" for line in found),
        main=_html(_with_links(main.shown, results.sets, evaluated)),
        below="\n".join(f"<p>{_inline(text)}</p>" for text in (main.caption, *main.notes)),
        figures="\n".join(_figure(figures / f"{name}.png", title) for name, title in _FIRST_FIGURES.items()),
        more="\n".join(_folded(table) for table in others),
        drawings="\n".join(_figure(figures / f"{name}.png", title) for name, title in _OTHER_FIGURES.items()),
    )


def _with_links(shown: pd.DataFrame, sets: Sequence[str], evaluated: Collection[str]) -> pd.DataFrame:
    """The main table as HTML cells, where an accuracy opens its questions."""
    linked = shown.map(escape)
    for column, asked in [*((name, {"set": name}) for name in sets), ("average", {})]:
        for row, method in shown["method"].items():
            if method in evaluated and shown.at[row, column] != NOTHING:
                address = urlencode({**asked, "of": method})
                linked.at[row, column] = f'<a href="view.html#{address}">{escape(str(shown.at[row, column]))}</a>'
    return linked


def _html(cells: pd.DataFrame) -> str:
    # A cell may be broken beside an interval, not within it, and a name at its underscores.
    lines = cells.map(lambda cell: re.sub(r"\[[^\]<]*\]", _unbreakable, str(cell)))
    if len(lines.columns):
        lines = lines.assign(**{str(lines.columns[0]): lines.iloc[:, 0].map(_breakable)})
    lines = lines.rename(columns=lambda name: _breakable(escape(str(name))))
    table = lines.to_html(index=False, border=0, escape=False)
    # Tables that are wide even so move within the page, which itself does not.
    return f'<div class="wide" tabindex="0" role="region" aria-label="table">{table}</div>'


def _unbreakable(found: re.Match[str]) -> str:
    return found[0].replace(" ", "&nbsp;")


def _breakable(name: str) -> str:
    return name.replace("_", "_<wbr>")


def _folded(table: Table) -> str:
    heading = _HEADINGS.get(table.name, table.name.replace("_", " ").capitalize())
    texts = "\n".join(f"<p>{_inline(text)}</p>" for text in (table.caption, *table.notes))
    rows = _html(table.shown.map(escape))
    return f"<details><summary>{escape(heading)}</summary>\n{rows}\n{texts}\n</details>"


def _figure(path: Path, title: str) -> str:
    drawn = base64.b64encode(path.read_bytes()).decode()
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><img alt="{escape(title)}" '
        f'src="data:image/png;base64,{drawn}"></figure>'
    )


def _inline(text: str) -> str:
    """Markdown's bold, emphasis and code in a line, as HTML; everything else is text."""
    html = re.sub("`([^`]+)`", r"<code>\1</code>", escape(text))
    html = re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", html)
    return re.sub(r"\*([^*]+)\*", r"<em>\1</em>", html)


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Results: $profile</title>
<style>
body { margin: 0 auto; max-width: 76rem; padding: 0 1rem 3rem; font: 15px/1.5 system-ui, sans-serif; color: #1b1f24; }
h1 { font-size: 1.4rem; margin: 1rem 0 .5rem; }
h2 { font-size: 1.1rem; margin: 1.6rem 0 .4rem; }
p, li { max-width: 56rem; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .45rem; text-align: right; border-bottom: 1px solid #d5d9de; vertical-align: top; }
th { font-weight: 600; vertical-align: bottom; }
@media (max-width: 60rem) { td { white-space: nowrap; } }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: #fff; }
a { color: #00567a; }
figure { margin: 1rem 0; }
figcaption { font-weight: 600; }
img { max-width: 100%; height: auto; }
details { border-top: 1px solid #d5d9de; padding: .4rem 0; }
summary { cursor: pointer; font-weight: 600; }
code { background: #f4f6f8; padding: 0 .2em; }
</style>
</head>
<body>
<h1>Results: $profile</h1>
<h2>What was found</h2>
<p>Comparisons that were declared before the run, in their order:</p>
<ul>
$found
</ul>
<h2>Accuracy</h2>
<p>A number opens its questions in <a href="view.html">the viewer</a>; rollouts of training are in
<a href="view_training.html">another one</a>.</p>
$main
$below
<h2>Figures</h2>
$figures
<h2>More tables</h2>
$more
<details><summary>More figures</summary>
$drawings
</details>
<p>The same tables as CSV, Markdown and LaTeX: <a href="tables/">tables/</a>. How they were made:
<a href="tables/main.run.json">run record</a>.</p>
</body>
</html>
"""
