"""The digest of the code that makes a result: a script, and whatever it imports of this project, however deep.

A rule puts it into its params, so that Snakemake plans a job again when this code changes. Comments, docstrings
and layout do not count, so wording never costs a rerun. A package's ``__init__`` only points at names: an import
from a package counts the module that the name comes from.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from iapo.artifacts.files import atomic_write

ROOT = Path(__file__).resolve().parents[2]
PROJECT = ("iapo", "baselines", "benchmarks")
"""Top-level packages whose modules count; other packages are pinned by ``requirements.lock``."""

CHANGES_NO_RESULT = (
    "iapo/artifacts/code_digest.py",
    "iapo/artifacts/progress.py",
    "iapo/artifacts/run_record.py",
    "iapo/config/declared.py",
    "iapo/config/method.py",
    "iapo/config/mini_world.py",
    "iapo/config/policies.py",
    "iapo/config/schema.py",
    "iapo/config/sources.py",
    "iapo/config/variants.py",
    "iapo/jobs/",
    "iapo/training/monitors.py",
)
"""Modules that say how a run is watched, recorded, placed or validated. The values of settings are params
themselves, so the classes that hold them need not count: a new setting would rerun everything."""

KEPT = ".snakemake/code_facts.json"

REGISTRIES = ("baselines/__init__.py",)
"""Lists of everything there is of a kind; a rule names the one entry that its job uses."""


def code_of(*entries: str) -> str:
    """Hex digest of what some scripts, modules or folders do.

    Args:
        entries: paths below the project's root, such as ``workflow/scripts/download.py``, or dotted modules, such as
            ``baselines.torl``. They always count, even where they stand in :data:`CHANGES_NO_RESULT`.

    Raises:
        FileNotFoundError: for an entry that does not exist.
    """
    digest = hashlib.sha256()
    for path in closure(*entries):
        digest.update(path.encode())
        digest.update(_facts(path).meaning.encode())
    return digest.hexdigest()[:16]


def closure(*entries: str) -> list[str]:
    """Paths below the project's root of all files that decide what ``entries`` do, sorted.

    Args:
        entries: as :func:`code_of` takes them.
    """
    pending = [path for entry in entries for path in _files(entry)]
    found: set[str] = set()
    while pending:
        path = pending.pop()
        if path not in found:
            found.add(path)
            pending += [each for each in _imports(path) if not each.startswith(CHANGES_NO_RESULT)]
    return sorted(found)


def _files(entry: str) -> list[str]:
    path = entry if "/" in entry else _module(entry)
    if path is None or not (ROOT / path).exists():
        raise FileNotFoundError(f"{entry!r} not found below {ROOT}; expected a file, a folder or a dotted module")
    if (ROOT / path).is_file():
        return [path]
    inside = sorted([*(ROOT / path).rglob("*.py"), *(ROOT / path).rglob("*yaml")])
    return [each.relative_to(ROOT).as_posix() for each in inside]


def _module(name: str) -> str | None:
    """The file of a dotted module or package; None where ``name`` is neither."""
    stem = name.replace(".", "/")
    return next((path for path in (f"{stem}.py", f"{stem}/__init__.py") if (ROOT / path).is_file()), None)


def _imports(path: str) -> tuple[str, ...]:
    """The project's files that a file imports, anywhere in it."""
    return _resolved_imports(path, _facts(path))


@cache
def _resolved_imports(path: str, facts: _Facts) -> tuple[str, ...]:
    names = [(module, name) for module, name in facts.imports if module.partition(".")[0] in PROJECT]
    found = {_origin(module, name) for module, name in names}
    return tuple(sorted(each for each in found if each is not None and each not in REGISTRIES))


def _origin(module: str, name: str | None) -> str | None:
    """The file that an imported name comes from."""
    if name is not None and (submodule := _module(f"{module}.{name}")) is not None:
        return submodule
    path = _module(module)
    if path is None or name is None or not path.endswith("__init__.py"):
        return path
    for source, exported in _facts(path).imports:
        if exported == name:
            return _origin(source, name)
    return path


@dataclass(frozen=True)
class _Facts:
    """What is known of a file as it was last written."""

    meaning: str
    """Hex digest of its syntax tree without docstrings, or of its bytes where it is not Python."""
    imports: tuple[tuple[str, str | None], ...]
    """Modules and the names imported from them; None for a module as a whole."""


def _facts(path: str) -> _Facts:
    found = (ROOT / path).stat()
    return _kept_facts(ROOT / path, found.st_mtime_ns, found.st_size)


@cache
def _kept_facts(file: Path, written: int, size: int) -> _Facts:
    kept = _load_kept(ROOT).get(str(file))
    if kept and kept[:2] == [written, size]:
        return _Facts(kept[2], tuple((module, name) for module, name in kept[3]))
    facts = _read_facts(file)
    _load_kept(ROOT)[str(file)] = [written, size, facts.meaning, [list(each) for each in facts.imports]]
    return facts


def _read_facts(file: Path) -> _Facts:
    if file.suffix != ".py":
        return _Facts(hashlib.sha256(file.read_bytes()).hexdigest(), ())
    tree = ast.parse(file.read_text())
    imports = tuple(_imported_names(tree))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [item for item in body if not _is_docstring(item)] or [ast.Pass()]  # type: ignore[attr-defined]
    return _Facts(hashlib.sha256(ast.dump(tree).encode()).hexdigest(), imports)


def _imported_names(tree: ast.Module) -> Iterator[tuple[str, str | None]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


@cache
def _load_kept(root: Path) -> dict[str, list[Any]]:
    """Facts of files that have not been written since: reading all of them takes a second, at every plan and job."""
    try:
        kept = json.loads((root / KEPT).read_text())
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}


def keep_facts() -> None:
    """Write down what was read of the project's files, so that the next process need not read them again."""
    facts = json.dumps(_load_kept(ROOT))
    path = ROOT / KEPT
    if not path.exists() or path.read_text() != facts:
        with atomic_write(path) as tmp:
            tmp.write_text(facts)
