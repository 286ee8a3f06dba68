"""What the installed package offers of the harness, which is in a clone of the repository and in no wheel.

The command ``iapo`` and lmms-eval's model ``iapo`` both lead there.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from iapo.artifacts.code_digest import ROOT


def main() -> int:
    """Run ``benchmarks.command`` of the clone in whose root the user stands, with this process's arguments.

    Returns:
        Status 1 where the current folder is no clone's root; else this process becomes the command.
    """
    if not Path("benchmarks/command.py").is_file():
        print(
            f"error: found no benchmark harness in {Path.cwd()}; `iapo` runs in the root of a clone of the repository, "
            "and the wheel is for `import iapo` alone: clone it, `cd` there, `make table`",
            file=sys.stderr,
        )
        return 1
    os.execv(sys.executable, [sys.executable, "-m", "benchmarks.command", *sys.argv[1:]])


def lmms_eval_models() -> list[Any]:
    """Return the manifest of lmms-eval's model ``iapo``; empty with the wheel, which must not break lmms-eval."""
    if not (ROOT / "benchmarks/plugin.py").is_file():
        return []
    return [import_module("benchmarks.plugin").manifest()]
