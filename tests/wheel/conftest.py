"""The wheel of this clone, built from a copy of what it is made of."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from iapo.artifacts.code_digest import ROOT

BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Builds by a hook of the build backend, ``build_wheel`` or ``build_editable``, without a network."""
    copy = tmp_path_factory.mktemp("source") / "clone"
    for name in ("iapo", "baselines", "benchmarks"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)

    def build(hook: str) -> Path:
        out = copy.parent / hook
        out.mkdir()
        done = subprocess.run(
            [sys.executable, "-c", BUILD, hook, str(out)], cwd=copy, capture_output=True, text=True, check=True
        )
        return out / done.stdout.splitlines()[-1]

    return build


@pytest.fixture(scope="session")
def wheel(built: Callable[[str], Path]) -> Path:
    """The wheel."""
    return built("build_wheel")
