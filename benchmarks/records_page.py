"""``docs/records.md``: the columns of every record, from the code that writes them; and what a reward is given.

``python -m benchmarks.records_page`` writes that page, and the table in ``docs/add_a_reward.md``. Types and
descriptions are those of the classes; what no class describes is in :mod:`benchmarks.records_text`.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.audit.teachers import TeacherSummary
from benchmarks.records import ItemRecord
from benchmarks.records_text import GIVEN_BY_TRL, GIVEN_ONCE, METRICS, MISSES, RUN_RECORD, TABLES
from iapo.alignment.informativeness import Informativeness
from iapo.artifacts.code_digest import ROOT
from iapo.artifacts.files import atomic_write, between_marks
from iapo.cold_start.call_rates import CallRates
from iapo.data.selection import DatasetRow
from iapo.data.store import ExampleRow
from iapo.data.store import Manifest as DataManifest
from iapo.rollout.call_sampling import SampledCall
from iapo.teacher.rows import CacheRow, Manifest, Shard
from iapo.training.rollout_recorder import RolloutRow

PAGE = ROOT / "docs/records.md"
REWARD_PAGE = ROOT / "docs/add_a_reward.md"
_BEGIN, _END = "<!-- columns: written by `make config` -->", "<!-- end of columns -->"

_CALL = {
    "canonical_call": ("str", "The call as canonical JSON: equal for equal calls."),
    "tool": ("str", "Name of its tool."),
    "labels": ("list[str]", "Labels that it names, in order."),
}
"""The columns of a cache's file in place of a row's ``call``."""


@dataclass(frozen=True)
class Column:
    """One column or key of a record."""

    name: str
    type: str
    """As in Python; empty where it is a number or text of a CSV file."""
    meaning: str


def columns_of(kind: type) -> list[Column]:
    """Return the fields of a class with the text below each.

    Args:
        kind: a dataclass or ``TypedDict`` of this project.

    Raises:
        ValueError: for a field without such a text.
    """
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(tree, ast.ClassDef)
    found = []
    for field, below in zip(tree.body, [*tree.body[1:], ast.Pass()], strict=True):
        if not isinstance(field, ast.AnnAssign):
            continue
        if not (isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)):
            raise ValueError(f"{kind.__name__}.{ast.unparse(field.target)}: found no text below it; say what it holds")
        meaning = _markdown(str(below.value.value))
        found.append(Column(ast.unparse(field.target), ast.unparse(field.annotation), meaning))
    return found


def cache_columns() -> list[Column]:
    """Return the columns of a cache's file, in the order of a row's fields."""
    found = []
    for column in columns_of(CacheRow):
        of_call = [Column(name, *described) for name, described in _CALL.items()]
        found += of_call if column.name == "call" else [column]
    return found


def reward_columns() -> list[Column]:
    """Return what a reward function can take by name, each with the type of one rollout's entry."""
    of_trl, once = (
        [Column(name, *described) for name, described in given.items()] for given in (GIVEN_BY_TRL, GIVEN_ONCE)
    )
    # TRL hands the prompt over as `prompts`.
    row = [column for column in columns_of(DatasetRow) if column.name != "prompt"]
    return [*of_trl, *row, *columns_of(RolloutRow), *once]


def reward_page(text: str) -> str:
    """Return the page on rewards with today's table of columns in its place.

    Args:
        text: of the page, with the two marks around the table.
    """
    return between_marks(text, _BEGIN, _END, "\n".join(_table(reward_columns())))


def metric_names() -> set[str]:
    """Return the names of all metrics that the trainers and rewards log, with ``<…>`` for what they fill in."""
    files = [*(ROOT / "iapo/training").glob("*.py"), *(ROOT / "iapo/rewards").glob("*.py")]
    # The monitors write none, and read single kinds of those with a part to fill in.
    texts = (text for path in files if path.name != "monitors.py" for text in _texts(ast.parse(path.read_text())))
    groups = "|".join(sorted({name.partition("/")[0] for name in METRICS}))
    # What ends in a line or a stroke is the beginning of an f-string.
    return {text for text in texts if re.fullmatch(rf"({groups})/[\w<>/]*[a-zA-Z>]", text)}


def _texts(tree: ast.AST) -> Iterator[str]:
    """Yield the string literals of a module; of an f-string with its expressions in angle brackets."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            yield "".join(
                part.value if isinstance(part, ast.Constant) else f"<{ast.unparse(part.value)}>"  # type: ignore[misc, attr-defined]
                for part in node.values
            )


def page() -> str:
    """Return the whole page."""
    parts = [
        _HEAD,
        _section(
            "Answers to the test questions",
            "`results/<profile>/eval/<method>/seed<n>/records.parquet`: one row a question.",
            columns_of(ItemRecord),
        ),
        _section(
            "Metrics of each step",
            "`results/<profile>/train/<method>/seed<n>/metrics.csv`: one row an optimizer step, averaged over the "
            "processes. `<name>` is a term of the reward, such as `outcome_reward` or `alignment_reward`. All columns "
            "that are not listed are TRL's own (`reward`, `rewards/<name>/mean`, `entropy`, `completions/…`, …).",
            _columns(METRICS),
        ),
        _section(
            "Rows of the teacher's cache",
            "`results/<profile>/teacher/start<k>/cache/<name>/*.parquet`: one row a prompt and call.",
            cache_columns(),
        ),
        _section("The cache's manifest", "`manifest.json` beside these files.", columns_of(Manifest)),
        _section("One of its shards", "A value of `shards`.", columns_of(Shard)),
        _section(
            "Questions",
            "`results/<profile>/data/<split>/<set>.parquet`: one row a question about one figure.",
            columns_of(ExampleRow),
        ),
        _section("The data's manifest", "`results/<profile>/data/manifest.json`.", columns_of(DataManifest)),
        _section(
            "Sampled calls",
            "`results/<profile>/student_calls/<stage>/start<k>.parquet`: one row a rollout with a call.",
            columns_of(SampledCall),
        ),
        _section(
            "How often they are right",
            "`results/<profile>/student_calls/<stage>/start<k>.json`, beside stage, start and temperature.",
            columns_of(CallRates),
        ),
        _section(
            "Calls that the cache lacked",
            "`results/<profile>/train/<method>/seed<n>/work/misses.jsonl`: one line a turn, most frequent first.",
            _columns(MISSES),
        ),
        _section(
            "Whether the teacher is informative", "`results/<profile>/informative.json`.", columns_of(TeacherSummary)
        ),
        _section("One teacher", "A value of `teachers`.", columns_of(Informativeness)),
        _section("Run records", "`*.run.json` beside every artefact: how it was made.", _columns(RUN_RECORD)),
        *(_section(f"Table: {name}", _TABLE.format(name), _columns(columns)) for name, columns in TABLES.items()),
    ]
    return "\n\n".join(parts) + "\n"


_HEAD = """# Columns of every record

This page lists what each file of a run holds, column by column. It is written by `make config` from the code that
writes the files, and a test holds it.

Parquet files are read by `pandas.read_parquet`, CSV files by `pandas.read_csv`."""

_TABLE = "`results/<profile>/tables/{0}.csv`; `{0}.md` and `{0}.tex` show the same. Rates are fractions in [0, 1]."


def _columns(meanings: Mapping[str, str]) -> list[Column]:
    return [Column(name, "", meaning) for name, meaning in meanings.items()]


def _section(heading: str, where: str, columns: Sequence[Column]) -> str:
    return "\n".join([f"## {heading}", where, "", *_table(columns)])


def _table(columns: Sequence[Column]) -> list[str]:
    typed = any(column.type for column in columns)
    head = ["column", *(["type"] if typed else []), "meaning"]
    rows = [
        f"| `{column.name}` | {_cell(f'`{column.type}`') + ' | ' if typed else ''}{_cell(column.meaning)} |"
        for column in columns
    ]
    lines = [f"| {' | '.join(head)} |", f"| {' | '.join('---' for _ in head)} |"]
    return [*lines, *rows]


def _markdown(text: str) -> str:
    """Return a docstring's text as Markdown on one line: roles as code, without the path to a name."""
    named = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"`\1`", " ".join(text.split()))
    return named.replace("``", "`")


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


if __name__ == "__main__":
    with atomic_write(PAGE) as tmp:
        tmp.write_text(page())
    with atomic_write(REWARD_PAGE) as tmp:
        tmp.write_text(reward_page(REWARD_PAGE.read_text()))
