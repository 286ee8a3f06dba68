"""The documentation as an offline site: ``make docs`` builds it from the project's own Markdown pages.

Sphinx reads from the project's root, so that README, configuration and checked-in tables are pages like those in
``docs/``, and a link or an anchor that leads nowhere stops the build. Three things are added: the side bar follows the
lists of ``docs/README.md``; a link to a file that is no page shows that file; equations become MathML, which browsers
draw without a script or a font.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from pygments.lexers import find_lexer_class_for_filename
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
LONGEST_FIGURE = 24
"""Characters up to which a table's cell is kept on one line."""

project = "IAPO, reimplemented and tested"
root_doc = "docs/README"
include_patterns = [
    *("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs/*.md", "config/README.md"),
    *("results/README.md", "results/reference/**.md"),
]
extensions = ["myst_parser"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
# Tables that are checked in are reached from the pages about them.
suppress_warnings = ["toc.not_included"]
nitpicky = True
html_theme = "furo"
html_title = project
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False
html_math_renderer = "mathml"
html_static_path = ["site.css"]
html_css_files = ["site.css"]


def side_bar(app: Sphinx, docname: str, source: list[str]) -> None:
    """Append to the first page what the side bar is made of: each of its lists of pages under its heading."""
    if docname == root_doc:
        for heading, entries in page_lists(source[0]):
            lines = "\n".join(entries)
            source[0] += f"\n\n```{{toctree}}\n:hidden:\n:caption: {heading}\n\n{lines}\n```\n"


def page_lists(text: str) -> Iterator[tuple[str, list[str]]]:
    """Find the headings of the first page and the pages that each one's list names.

    Args:
        text: Markdown of ``docs/README.md``.

    Returns:
        Heading and the entries of its list as Sphinx takes them, such as ``Run on a cluster </docs/cluster>``; headings
        without a list are left out.
    """
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        heading, _, body = section.partition("\n")
        links = re.findall(r"^- \[([^]]+)\]\(([^)#\s]+)\.md\)", body, flags=re.MULTILINE)
        if links:
            yield heading, [f"{title} </{(DOCS / page).resolve().relative_to(ROOT)}>" for title, page in links]


class FilePages(SphinxTransform):
    """Lead a link to a file of the project to a page that shows the file, in place of a download."""

    default_priority = 1

    def apply(self, **_: Any) -> None:
        """Replace the document's downloads by links, and note which files are asked for."""
        shown: set[str] = self.env.__dict__.setdefault("shown_files", set())
        to_root = "../" * self.env.docname.count("/")
        for node in list(self.document.findall(addnodes.download_reference)):
            path = (Path(self.env.doc2path(self.env.docname)).parent / node["reftarget"]).resolve().relative_to(ROOT)
            shown.add(path.as_posix())
            link = nodes.reference("", "", *node.children, refuri=f"{to_root}files/{path.as_posix()}.html")
            node.replace_self(link)


class Figures(SphinxTransform):
    """Mark the tables of figures, whose cells are not broken over lines."""

    default_priority = 800

    def apply(self, **_: Any) -> None:
        """Mark each table below whose head all cells are short."""
        for table in self.document.findall(nodes.table):
            cells = [cell for body in table.findall(nodes.tbody) for cell in body.findall(nodes.entry)]
            if all(len(cell.astext()) <= LONGEST_FIGURE for cell in cells):
                table["classes"].append("figures")


def file_pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Make the pages that show files."""
    for name in sorted(app.env.__dict__.get("shown_files", ())):
        lexer = find_lexer_class_for_filename(name)
        language = lexer.aliases[0] if lexer else "text"
        code = app.builder.highlighter.highlight_block((ROOT / name).read_text(), language)  # type: ignore[attr-defined]
        yield f"files/{name}", {"title": name, "body": f"<h1>{name}</h1>{code}"}, "page.html"


def first_page(app: Sphinx, fault: Exception | None) -> None:
    """Let the site's address lead to the first page."""
    if fault is None:
        (Path(app.outdir) / "index.html").write_text(f'<meta http-equiv="refresh" content="0; url={root_doc}.html">\n')


def inline_equation(writer: Any, node: nodes.math) -> None:
    """Write an equation within a line."""
    writer.body.append(convert(node.astext()))
    raise nodes.SkipNode


def equation(writer: Any, node: nodes.math_block) -> None:
    """Write an equation of its own."""
    writer.body.append(f'<div class="equation">{convert(node.astext(), display="block")}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Register what this file adds."""
    app.connect("source-read", side_bar)
    app.connect("html-collect-pages", file_pages)
    app.connect("build-finished", first_page)
    app.add_transform(FilePages)
    app.add_transform(Figures)
    app.add_html_math_renderer("mathml", (inline_equation, None), (equation, None))
    return {"parallel_read_safe": False, "parallel_write_safe": True}
