"""A job's digest changes with every file that its script imports, and with no other."""

import re
import shutil
from pathlib import Path

import grimp
import pytest

from baselines import METHODS
from iapo.artifacts import code_digest
from iapo.artifacts.code_digest import CHANGES_NO_RESULT, ROOT, closure, code_of

SCRIPTS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "workflow/scripts").glob("*.py"))
TEACHERLESS = [name for name, method in METHODS.items() if not (method.uses_teacher or method.distils)]


def entries_of(method: str) -> tuple[str, ...]:
    """What the workflow's rule names for the training of a method."""
    trainer = METHODS[method].trainer
    modules = [METHODS[method].rewards.__module__, *([trainer.partition(":")[0]] if trainer else [])]
    return ("workflow/scripts/train_policy.py", *modules)


ENTRIES = sorted({*((script,) for script in SCRIPTS), *(entries_of(method) for method in METHODS)})


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the code in which files can be edited."""
    for name in ("iapo", "baselines", "benchmarks", "workflow"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code_digest, "ROOT", tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    """The imports between all modules, as another program sees them."""
    graph = grimp.build_graph("iapo", "baselines", "benchmarks")
    for module in graph.modules:
        # A job names the method that it trains; the list of all of them is no part of it.
        if module == "baselines" or file_of(module).startswith(CHANGES_NO_RESULT):
            for imported in graph.find_modules_directly_imported_by(module):
                graph.remove_import(importer=module, imported=imported)
    return graph


def file_of(module: str) -> str:
    return f"{module.replace('.', '/')}.py"


def imported_by_the_script(script: str) -> set[str]:
    text = (ROOT / script).read_text()
    return set(re.findall(r"^ *from ((?:iapo|benchmarks|baselines)\.[\w.]+) import", text, re.MULTILINE))


def expected_closure(entries: tuple[str, ...], graph: grimp.ImportGraph) -> set[str]:
    """By the graph: the entries and whatever they import, without signposts and what changes no result."""
    script, *modules = entries
    start = imported_by_the_script(script) | set(modules)
    reached = start.union(*(graph.find_upstream_modules(module) for module in start))
    files = {path for path in map(file_of, reached) if (ROOT / path).exists()}
    return {script, *map(file_of, modules)} | {path for path in files if not path.startswith(CHANGES_NO_RESULT)}


@pytest.mark.parametrize("entries", ENTRIES, ids="-".join)
def test_the_closure_is_what_another_program_finds(entries: tuple[str, ...], graph: grimp.ImportGraph) -> None:
    assert set(closure(*entries)) == expected_closure(entries, graph)


def test_a_module_taken_out_of_a_closure_is_noticed(monkeypatch: pytest.MonkeyPatch, graph: grimp.ImportGraph) -> None:
    entries = ("workflow/scripts/cache_teacher.py",)
    expected = expected_closure(entries, graph)
    monkeypatch.setattr(code_digest, "CHANGES_NO_RESULT", (*CHANGES_NO_RESULT, "iapo/attribution/quadrature.py"))
    assert expected - set(closure(*entries)) == {"iapo/attribution/quadrature.py"}


def test_what_changes_no_result_is_a_short_list_of_what_is_there() -> None:
    assert len(CHANGES_NO_RESULT) <= 12
    assert all((ROOT / path).exists() for path in CHANGES_NO_RESULT)


def test_an_edit_of_any_file_changes_the_digests_of_exactly_its_readers(tree: Path) -> None:
    closures = {entries: set(closure(*entries)) for entries in ENTRIES}
    digests = {entries: code_of(*entries) for entries in ENTRIES}
    files = sorted(set().union(*closures.values()))
    assert len(files) > 100
    for path in files:
        with (tree / path).open("a") as file:
            file.write("\n_edited = 1\n")
        now = {entries: code_of(*entries) for entries in ENTRIES}
        assert {entries for entries in ENTRIES if now[entries] != digests[entries]} == {
            entries for entries, reached in closures.items() if path in reached
        }, path
        digests = now


def test_wording_costs_no_rerun_and_meaning_does(tree: Path) -> None:
    digests = []
    for source in ('"""Doc."""\nx = 1  # why\n', "x = 1\n", "x = 2\n", 'def f():\n    """Doc."""\n    return 1\n'):
        (tree / "iapo/m.py").write_text(source)
        digests.append(code_of("iapo.m"))
    assert digests[0] == digests[1] != digests[2] != digests[3]


@pytest.mark.parametrize("method", TEACHERLESS)
def test_methods_without_a_teacher_depend_on_no_attribution(method: str) -> None:
    assert not [path for path in closure(*entries_of(method)) if "/attribution/" in path or "/teacher/" in path]


def test_methods_with_a_teacher_depend_on_all_of_it() -> None:
    found = closure(*entries_of("iapo"))
    for name in ("attribution/quadrature", "attribution/shared_prompts/forward_mode", "alignment/divergence"):
        assert f"iapo/{name}.py" in found
    assert "iapo/teacher/cache.py" in found and "iapo/models/precision.py" in found


def test_an_unknown_entry_is_named() -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        code_of("iapo.nowhere")


def test_what_was_read_is_kept_for_the_next_process(tree: Path) -> None:
    before = code_of("workflow/scripts/download.py")
    code_digest.keep_facts()
    assert (tree / code_digest.KEPT).exists()
    code_digest._kept_facts.cache_clear()
    code_digest._load_kept.cache_clear()
    assert code_of("workflow/scripts/download.py") == before
    with (tree / "iapo/hub/download.py").open("a") as file:
        file.write("\n_edited = 1\n")
    assert code_of("workflow/scripts/download.py") != before
