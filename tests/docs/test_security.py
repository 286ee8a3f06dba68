"""Each sentence of docs/security.md has a test that exists, and what holds of the whole code is held here."""

import ast
import getpass
import json
import platform
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from iapo.artifacts.code_digest import ROOT
from iapo.artifacts.run_record import Job, Plan
from iapo.config.schema import load_config

SOURCES = [path for name in ("iapo", "baselines", "benchmarks", "workflow") for path in (ROOT / name).rglob("*.py")]
RUNS_TEXT = {"eval", "exec", "compile", "__import__"}
RUNS_TEXT_OF = {("os", "system"), ("os", "popen"), ("torch", "load"), ("ast", "literal_eval"), ("yaml", "load")}
UNPICKLES = {"pickle", "dill", "marshal", "shelve", "joblib"}


def test_each_sentence_names_a_test_that_exists() -> None:
    page = (ROOT / "docs/security.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| ") and not line.startswith(("| ---", "| what"))]
    assert len(rows) >= 20
    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row)
        assert named, row
        for file, name in named:
            assert re.search(rf"^def {name}\(", (ROOT / file).read_text(), re.MULTILINE), f"{file}::{name}"


def faults(tree: ast.AST) -> Iterator[str]:
    """Parts of a module that run a text, unpickle or start a shell."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [each.name for each in node.names]
            yield from (name for name in names if name.partition(".")[0] in UNPICKLES)
        elif isinstance(node, ast.keyword) and node.arg in ("shell", "trust_remote_code", "allow_pickle"):
            yield node.arg
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in RUNS_TEXT:
            yield node.func.id
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            of = node.func.value
            if isinstance(of, ast.Name) and (of.id, node.func.attr) in RUNS_TEXT_OF:
                yield f"{of.id}.{node.func.attr}"


def test_the_code_evaluates_no_text_and_starts_no_shell() -> None:
    assert len(SOURCES) > 100
    found = {str(path.relative_to(ROOT)): list(faults(ast.parse(path.read_text()))) for path in SOURCES}
    assert {name: parts for name, parts in found.items() if parts} == {}


def test_one_rule_has_a_shell_command_of_fixed_text() -> None:
    rules = "\n".join(path.read_text() for path in [ROOT / "Snakefile", *sorted((ROOT / "workflow").rglob("*.smk"))])
    (command,) = re.findall(r"^ +shell:\n((?: {8}.*\n)+)", rules, re.MULTILINE)
    filled = set(re.findall(r"{+([\w.()]+)}+", command))
    assert filled == {"shlex.quote(sys.executable)", "input", "input.csv", "output.csv", "input.markdown",
                      "output.markdown", "log"}  # fmt: skip
    assert len(re.findall(r"\bshell\b", rules)) == 2 and "shell.prefix(silent_imports())" in rules
    (rule,) = re.findall(r"^rule show_table:\n(.*?)^    shell:", rules, re.MULTILINE | re.DOTALL)
    assert "wildcards" not in rule and "config" not in rule.replace("configuration's", "")


@pytest.mark.parametrize(
    "text",
    ["eval(x)", "import pickle", "from dill import loads", "run(x, shell=True)", "os.system(x)", "torch.load(x)"],
)
def test_what_runs_a_text_is_found(text: str) -> None:
    assert len(list(faults(ast.parse(text)))) == 1


def test_jobs_ask_no_hub() -> None:
    text = (ROOT / "iapo/jobs/workflow_job.py").read_text()
    # Before anything is imported that could ask.
    assert text.index('os.environ.setdefault("HF_HUB_OFFLINE", "1")') < text.index("yield Job(")
    clients = re.compile(r"(requests|urllib\.request|httpx2?|openai|huggingface_hub|socket|http)\b")
    asking = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            if any(map(clients.match, names)):
                asking.add(path.relative_to(ROOT).parts[:2])
    # Downloads, servers that a setting names, what the estimate and the rehearsal need of either; the text of a card.
    assert asking <= {
        ("iapo", "hub"), ("iapo", "rewards"), ("iapo", "jobs"), ("iapo", "artifacts"), ("benchmarks", "rehearsal"),
        ("benchmarks", "api_model.py"), ("benchmarks", "released.py"),
        ("benchmarks", "released_prompt.py"), ("benchmarks", "cards.py"),
    }  # fmt: skip


def test_a_record_names_no_user_and_no_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SECRET_OF_MINE", "found-in-the-environment")
    config = load_config({"profile": "x"})
    record = tmp_path / "out.run.json"
    Job(config, config, Plan("train", ["out"], [], [], threads=1)).write_record(record, inputs={}, seeds={})
    facts = json.loads(record.read_text())
    assert "found-in-the-environment" not in record.read_text() and "environ" not in str(facts)
    values = {str(value) for value in _leaves(facts)}
    assert not values & {getpass.getuser(), platform.node(), str(Path.home())}


def _leaves(value: object) -> Iterator[object]:
    if isinstance(value, dict):
        for each in value.values():
            yield from _leaves(each)
    elif isinstance(value, list):
        for each in value:
            yield from _leaves(each)
    else:
        yield value
