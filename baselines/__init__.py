"""The compared methods. Each file holds only what differs: its reward terms and settings.

To add one, write a file beside these with a :class:`iapo.config.method_registry.Method` at its top level; no other file
names it (``docs/add_a_reward.md``).
"""

import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from iapo.config.method_registry import Method
from iapo.config.schema import ConfigError

PROGRAMS = ("estimate", "new_reward", "run", "try_reward")
"""Modules of this folder that are run, and hold no method."""


def _registered() -> dict[str, Method]:
    """Return all methods by name, file by file.

    Raises:
        ConfigError: for a file that cannot be imported, a name that cannot be one, and one that two methods have.
    """
    found: dict[str, tuple[str, Method]] = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if not path.stem.isidentifier() or path.stem in ("__init__", *PROGRAMS):
            continue
        for method in _methods_of(path.stem):
            if not re.fullmatch("[a-z][a-z0-9_]*", method.name):
                raise ConfigError(
                    f"baselines/{path.name}: found a Method named {method.name!r}; use small letters, digits and _"
                )
            file, known = found.setdefault(method.name, (path.name, method))
            # A file that builds on another one's method imports it.
            if known is not method:
                raise ConfigError(
                    f"baselines/{path.name}: found the name {method.name!r}, which a Method of baselines/{file} has; "
                    "choose another"
                )
    return {name: method for name, (_, method) in found.items()}


def _methods_of(module: str) -> Iterator[Method]:
    """Yield the methods at a module's top level, single or in a tuple."""
    try:
        values = vars(import_module(f"baselines.{module}")).values()
    except Exception as error:
        raise ConfigError(
            f"baselines/{module}.py: found {type(error).__name__}: {error}; correct the file, or move it elsewhere"
        ) from error
    for value in values:
        yield from (each for each in (value if isinstance(value, tuple) else (value,)) if isinstance(each, Method))


METHODS: dict[str, Method] = _registered()
"""Name → method."""
