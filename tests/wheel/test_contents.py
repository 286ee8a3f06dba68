"""The wheel gives `iapo` alone, typed, with loose pins; an editable install of the clone gives all of it."""

import ast
import email
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import iapo
from iapo.artifacts.code_digest import ROOT, closure
from iapo.harness import lmms_eval_models


def metadata(wheel: Path) -> email.message.Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return email.message_from_bytes(archive.read(name))


def needs(wheel: Path, extra: str = "") -> dict[str, str]:
    """Package → its range, of those that are needed with an extra or, by default, without any."""
    found = [Requirement(line) for line in metadata(wheel).get_all("Requires-Dist", [])]
    chosen = [each for each in found if (f'extra == "{extra}"' == str(each.marker) if extra else each.marker is None)]
    return {each.name: str(each.specifier) for each in chosen}


def test_the_wheel_has_iapo_alone_and_says_that_it_is_typed(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"iapo"}
    assert "iapo/py.typed" in names
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "iapo").rglob("*.py")}
    assert modules <= set(names)


def test_its_pins_are_loose_and_the_harness_is_an_extra(wheel: Path) -> None:
    loose, harness = needs(wheel), needs(wheel, "harness")
    assert not [name for name, pin in loose.items() if "==" in pin]
    assert {"torch", "transformers", "trl"} <= {name for name, pin in loose.items() if ">=" in pin}
    assert {"snakemake", "lmms-eval"} <= harness.keys() and not {"snakemake", "lmms-eval"} & loose.keys()
    assert all(harness[name].startswith("==") for name in ("torch", "transformers", "trl"))


def test_it_names_every_package_that_the_example_imports(wheel: Path) -> None:
    named = {name.replace("-", "_") for name in needs(wheel)}
    # Those that come with others, and plotly, with which only mini's world is drawn.
    named |= {"iapo", "pydantic_core", "safetensors", "tokenizers", "plotly"}
    renamed = {"PIL": "pillow", "cv2": "opencv_python_headless"}
    homes = ["docs/own_trainer.py", *(home.replace(".", "/") + ".py" for home in set(iapo._HOMES.values()))]
    imported = {
        name.partition(".")[0]
        for path in with_packages(homes)
        for node in ast.walk(ast.parse((ROOT / path).read_text()))
        for name in _modules(node)
    }
    assert {renamed.get(name, name) for name in imported - sys.stdlib_module_names} <= named


def with_packages(homes: list[str]) -> list[str]:
    """Everything that is run where these files are imported: what they import, and the packages around it."""
    found = closure(*homes)
    inits = {f"{parent}/__init__.py" for path in found for parent in Path(path).parents if parent.name}
    wider = sorted({*found, *(each for each in inits if (ROOT / each).is_file())})
    return wider if wider == homes else with_packages(wider)


def _modules(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module] if isinstance(node, ast.ImportFrom) and node.module else []


def test_the_page_names_the_oldest_versions(wheel: Path) -> None:
    page = (ROOT / "docs/own_trainer.md").read_text()
    told = dict(re.findall(r"^\| (torch|transformers|trl) \| ([\d.]+) \|", page, flags=re.MULTILINE))
    oldest = {name: re.findall(r">=([\d.]+)", pin)[0] for name, pin in needs(wheel).items() if name in told}
    assert len(told) == 3 and told == oldest
    assert needs(wheel)["trl"] == str(Requirement("trl>=1.10,!=1.15.0,<2").specifier)


def test_its_version_is_the_package_s(wheel: Path) -> None:
    assert metadata(wheel)["Version"] == iapo.__version__


def test_an_editable_install_gives_the_whole_clone(built: Callable[[str], Path]) -> None:
    with zipfile.ZipFile(built("build_editable")) as archive:
        (path,) = [name for name in archive.namelist() if name.endswith(".pth")]
        root = Path(archive.read(path).decode().strip())
    assert {"iapo", "baselines", "benchmarks"} <= {each.name for each in root.iterdir()}


def test_public_names_are_there_and_known_to_type_checkers() -> None:
    for name, home in iapo._HOMES.items():
        assert getattr(iapo, name) is getattr(import_module(home), name)
    tree = ast.parse((ROOT / "iapo/__init__.py").read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    told = {alias.name: node.module for node in imports for alias in node.names}
    assert {name: told.get(name) for name in iapo._HOMES} == iapo._HOMES
    assert dir(iapo) == sorted(iapo.__all__)
    with pytest.raises(AttributeError, match="module 'iapo' has no attribute 'nothing'; it has AlignmentConfig, "):
        iapo.nothing  # noqa: B018


def test_importing_the_package_imports_no_torch() -> None:
    code = "import iapo, iapo.harness, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_result_counts_the_module_that_a_public_name_comes_from(tmp_path: Path) -> None:
    assert {"iapo/rewards/alignment.py", "iapo/training/attribution_mixin.py"} <= set(closure("docs/own_trainer.py"))


def test_lmms_eval_finds_the_model_in_a_clone_and_nothing_with_the_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (manifest,) = lmms_eval_models()
    assert (manifest.model_id, manifest.chat_class_path) == ("iapo", "benchmarks.agent.FigureAgent")
    monkeypatch.setattr("iapo.harness.ROOT", tmp_path)
    assert lmms_eval_models() == []


def test_outside_a_clone_the_command_says_where_it_runs(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from iapo.harness import main; sys.exit(main())", "table"],
        cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 1 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: found no benchmark harness in {tmp_path}; `iapo` runs in the root of a clone")
