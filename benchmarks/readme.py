"""The results in README and in docs/, written from the tables and pages that are checked in.

``python -m benchmarks.readme results/mini results/sparse`` takes a finished run's tables into
``results/reference/mini`` first, a study's page to ``results/reference/sparse.md``, and what each run took to
``results/reference/runs.csv``; without folders it writes all pages again from what is there.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from benchmarks.audit.page import audit_page
from benchmarks.hints_page import hints_block
from benchmarks.mechanism.sparsity_page import GLANCE
from benchmarks.power_curve import power_curve
from benchmarks.run_cost import cost_sentence, take_cost
from benchmarks.tables.main import AVERAGE
from benchmarks.tables.pages import OTHER_TEACHERS, TEACHER_QUESTION, contrast_lines
from benchmarks.tables.render import each_run, interval, number, percent
from iapo.artifacts.code_digest import ROOT
from iapo.artifacts.files import atomic_write, between_marks

README, RESULTS = ROOT / "README.md", ROOT / "docs/results.md"
REFERENCE = ROOT / "results/reference/mini"
STUDY = "mechanism/page.md"
"""The page of a study that trains its conditions on their own, below ``results/<profile>``."""

_RUNS = (4, 6, 8, 12, 24, 48)
"""Numbers of cold starts that docs/results.md says the power of."""

_TAKEN = tuple(f"{name}.{kind}" for name in ("main", "contrasts", "calls", "cost") for kind in ("csv", "md"))
"""Tables that are checked in, with every run's value."""

_MEASURED = {"audit/summary.json": "audit.json", "perf/summary.json": "perf.json"}
"""What `make audit` writes below a run, and the name under which it is checked in beside the tables."""

_QUOTED = (
    ("results.md", "calls", "mini/calls.md"),
    ("results.md", "cost", "mini/cost.md"),
    ("ablations.md", "ablations", "mini_ablations.md"),
    ("ablations.md", "ablations on AMD", "mini_ablations_amd.md"),
    ("sparse.md", "sparse", "sparse.md"),
)
"""Page in ``docs/``, name of its block, and the checked-in page in ``results/reference/`` that the block shows."""

_FORMS = ("Settings by dev accuracy", "Against the matched control")
"""What docs/flat_groups.md shows of the page that compares forms of the reward."""

_NONE = "No finished run is checked in yet."


def marks(block: str) -> tuple[str, str]:
    """Return the comments before and after a block of this name."""
    return f"<!-- {block}: written by `make readme` -->", f"<!-- end of {block} -->"


def take(run: Path, reference: Path = REFERENCE.parent) -> None:
    """Copy what a finished run is read by, to be checked in: a study's page, or else the tables, and an audit if any.

    Args:
        run: ``results/<profile>``.
        reference: folder to copy to: the page to ``<profile>.md``, tables to ``<profile>/``.

    Raises:
        FileNotFoundError: if a table is missing; says which, and how to make it.
    """
    if (run / STUDY).exists():
        copies = {run / STUDY: reference / f"{run.name}.md"}
    else:
        copies = {run / "tables" / name: reference / run.name / name for name in _TAKEN}
        measured = {run / source: reference / run.name / name for source, name in _MEASURED.items()}
        copies |= measured if all(source.exists() for source in measured) else {}
    if missing := [path.name for path in copies if not path.exists()]:
        raise FileNotFoundError(f"{run}/tables: found no {', '.join(missing)}; `make table` writes them")
    for source, target in copies.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        text = source.read_text()
        with atomic_write(target) as tmp:
            tmp.write_text(_alone(text) if source.name == Path(STUDY).name else text)


def _alone(page: str) -> str:
    """Return a study's page, half of a longer one, by itself: headings a level higher, pictures left with the run."""
    without_pictures = re.sub(r"^!\[.*\n\n?", "", page, flags=re.MULTILINE)
    return re.sub("^##", "#", without_pictures, flags=re.MULTILINE)


def with_results(text: str, main: pd.DataFrame, contrasts: pd.DataFrame, teacher: str) -> str:
    """Return a page with today's accuracies, declared comparisons and verdict on the teacher between its marks.

    Args:
        text: of README or docs/results.md.
        main: of :func:`benchmarks.tables.main.main_table`.
        contrasts: of :func:`benchmarks.tables.contrasts.contrast_table`.
        teacher: of :func:`said_of_teacher`.
    """
    found = "\n".join(f"- {line}" for line in [*contrast_lines(contrasts), teacher])
    return between_marks(text, *marks("results"), f"{_table(main)}\n\n{found}")


def said_of_teacher(page: str) -> str:
    """Return what the page of the main table says of its teacher, up to what it says of other teachers.

    Raises:
        ValueError: if it says nothing.
    """
    said = next((part for part in page.split("\n\n") if part.startswith(TEACHER_QUESTION)), None)
    if said is None:
        raise ValueError(f"found no {TEACHER_QUESTION!r} in the page of the main table")
    return " ".join(said.split()).partition(OTHER_TEACHERS)[0].strip()


def with_power(text: str, contrasts: pd.DataFrame, cost: pd.DataFrame) -> str:
    """Return the text of docs/results.md with today's table of points against minutes between its marks.

    Args:
        text: of docs/results.md.
        contrasts: of :func:`benchmarks.tables.contrasts.contrast_table`.
        cost: of :func:`benchmarks.tables.training.cost_table`.
    """
    curve = power_curve(contrasts, cost, _RUNS)
    shown = pd.DataFrame({"cold starts": curve["runs"].astype(str)})
    shown["minutes on two cores"] = [number(value, 0) for value in curve["minutes"]]
    for name in curve.columns.drop(["runs", "minutes"]):
        shown[name] = curve[name].map(percent)
    return between_marks(text, *marks("power"), str(shown.to_markdown(index=False, disable_numparse=True)))


def quoted(reference: Path) -> str:
    """Return a checked-in page as part of another one: its headings two levels deeper, and that there is none if so."""
    if not reference.exists():
        return _NONE
    return re.sub("^#", "###", reference.read_text().strip(), flags=re.MULTILINE)


def forms_block(reference: Path) -> str:
    """Return the tables in which a checked-in page compares forms of the reward, or that there is none.

    Args:
        reference: page of a study with the settings of ``config/presets/sparse_forms.yaml``.
    """
    if not reference.exists():
        return _NONE
    text = reference.read_text()
    return "\n\n".join(f"### {title}\n{section(text, title)}" for title in _FORMS)


def section(page: str, title: str) -> str:
    """Return what stands below a heading of a page, up to the next heading of any level.

    Raises:
        ValueError: if the page has no such heading.
    """
    parts = re.split(r"^#+ (.*)$", page, flags=re.MULTILINE)
    found = dict(zip(parts[1::2], parts[2::2], strict=True))
    if title not in found:
        raise ValueError(f"found no heading {title!r}, expected one of {list(found)}")
    return found[title].strip()


def pages(reference: Path = REFERENCE) -> dict[Path, str]:
    """Return every page that has such blocks, as it reads with today's.

    Args:
        reference: folder of mini's checked-in tables.
    """
    main, contrasts, cost = (pd.read_csv(reference / f"{name}.csv") for name in ("main", "contrasts", "cost"))
    sparse = section((reference.parent / "sparse.md").read_text(), GLANCE)
    teacher = said_of_teacher((reference / "main.md").read_text())
    readme, results = (with_results(page.read_text(), main, contrasts, teacher) for page in (README, RESULTS))
    found = {
        README: between_marks(readme, *marks("sparse"), sparse),
        RESULTS: with_power(results, contrasts, cost),
    }
    for name, block, source in _QUOTED:
        page = ROOT / "docs" / name
        text = found.get(page) or page.read_text()
        found[page] = between_marks(text, *marks(block), quoted(reference.parent / source))
    page = ROOT / "docs/sparse.md"
    found[page] = between_marks(found[page], *marks("time"), cost_sentence("sparse", reference.parent))
    page = ROOT / "docs/flat_groups.md"
    found[page] = between_marks(page.read_text(), *marks("forms"), forms_block(reference.parent / "sparse_forms.md"))
    page = ROOT / "docs/hints.md"
    found[page] = page.read_text()
    for block, profile in (("without thoughts", "mechanism"), ("with thoughts", "mechanism_thought")):
        found[page] = between_marks(found[page], *marks(block), hints_block(profile, reference.parent))
    page = ROOT / "docs/audit.md"
    return found | {page: between_marks(page.read_text(), *marks("audit"), audited(reference))}


def audited(reference: Path) -> str:
    """Return the figures of the audit that is checked in, or that there is none.

    Args:
        reference: folder of mini's checked-in tables.
    """
    measured = [reference / name for name in _MEASURED.values()]
    if not all(path.exists() for path in measured):
        return "No audit of this world is checked in yet."
    return audit_page(*(json.loads(path.read_text()) for path in measured))


def _table(main: pd.DataFrame) -> str:
    """Policies that students are, one a row: the teacher is another model."""
    averages = main[(main["test_set"] == AVERAGE) & ~main["method"].str.startswith("teacher")]
    sets = [name for name in main["test_set"].unique() if name != AVERAGE]
    by_cell = main.set_index(["method", "test_set"])["accuracy"]
    rows = [
        {
            "method": row["method"],
            **{name: percent(by_cell[row["method"], name], 0) for name in sets},
            "average, 95 %": interval(row["accuracy"], row["ci_low"], row["ci_high"]),
            "each run": each_run(row["by_seed"], lambda run: percent(run, 0)),
        }
        for row in averages.to_dict("records")
    ]
    return str(pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True))


def main(arguments: Sequence[str] | None = None) -> int:
    """Write all pages, taking what finished runs are named first; status 1 if something of theirs is missing."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.readme", description=__doc__)
    parser.add_argument("folders", type=Path, nargs="*", help="results/<profile> of finished runs")
    options = parser.parse_args(arguments)
    try:
        for folder in options.folders:
            take(folder)
            take_cost(folder, REFERENCE.parent)
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 1
    for page, text in pages().items():
        with atomic_write(page) as tmp:
            tmp.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
