"""The settings that one job reads: named in its rule, handed over as params, and refused where they are not named.

Snakemake plans a job again when its params change. A setting that a job reads and its rule does not name would
leave a result older than what makes it, so a job sees the named settings alone, and reading another one fails.

Settings marked :data:`~iapo.config.sources.RERUNS_NOTHING` bound memory or time and never change a result. They
are left out of the params and can always be read.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Mapping
from typing import Any, cast

from pydantic import TypeAdapter

from iapo.config.schema import Config
from iapo.config.sources import RERUNS_NOTHING

READ: set[str] = set()
"""Declared keys that this process has read so far, for its run records: a rule should declare no more."""

Settings = dict[str, Any]
"""Dotted key → value, a section as a nested dictionary; what a rule's ``params.settings`` holds."""


class UndeclaredSettingError(AttributeError):
    """A job reads a setting that its rule does not name; the message says which, and where to add it."""


def declare(config: Config, *keys: str) -> Settings:
    """The values of some settings, for a rule's params.

    Args:
        config: of the run, or of one method.
        keys: dotted, each a section or a single value, such as ``attribution`` or ``train.temperature``. A
            property of :class:`Config`, such as ``teacher_attribution``, is a section too.
    """
    return {key: _counted(functools.reduce(getattr, key.split("."), cast(Any, config))) for key in keys}


def _counted(value: Any) -> Any:
    """A section without the settings that rerun nothing; any other value as it is."""
    if not dataclasses.is_dataclass(value):
        return value
    free = _free_fields(cast(Any, type(value)))
    fields = (field.name for field in dataclasses.fields(value) if field.name not in free)
    return {name: _counted(getattr(value, name)) for name in fields}


def with_value(settings: Mapping[str, Any], key: str, value: Any) -> Settings:
    """Declared settings with one of them replaced, be it declared by itself or within its section.

    Args:
        settings: from :func:`declare`.
        key: dotted, of a single value.
        value: its new one.

    Raises:
        KeyError: where the key is not declared.
    """
    section, _, name = key.rpartition(".")
    if key in settings:
        return {**settings, key: value}
    if name not in settings[section]:
        raise KeyError(key)
    return {**settings, section: {**settings[section], name: value}}


def value_of(settings: Mapping[str, Any], key: str) -> Any:
    """One declared value, be it declared by itself or within its section."""
    section, _, name = key.rpartition(".")
    return settings[key] if key in settings else settings[section][name]


def declared_config(settings: Mapping[str, Any], config: Config) -> Config:
    """A configuration that holds the declared settings and those that rerun nothing, and fails on any other.

    Args:
        settings: from :func:`declare`, perhaps after JSON.
        config: of the run, for the settings that rerun nothing.
    """
    # Reads like a Config; only what is declared is there.
    return cast(Config, _Section(Config, settings, config, ""))


class _Section:
    """One section of which some settings are declared."""

    def __init__(self, kind: Any, settings: Mapping[str, Any], config: Any, path: str) -> None:
        self._kind, self._settings, self._config, self._path = kind, settings, config, path

    def __getattr__(self, name: str) -> Any:
        key = f"{self._path}{name}"
        if key in self._settings:
            READ.add(key)
            whole = getattr(self._config, name, None)
            return TypeAdapter(_hints(self._kind)[name]).validate_python(_completed(self._settings[key], whole))
        member = getattr(self._kind, name, None)
        if isinstance(member, property) and member.fget is not None:
            # Reads on through this section, so that whatever it needs must be declared as well.
            return member.fget(self)
        if name in _free_fields(self._kind):
            return getattr(self._config, name)
        if any(declared.startswith(f"{key}.") for declared in self._settings):
            return _Section(_hints(self._kind)[name], self._settings, getattr(self._config, name), f"{key}.")
        raise UndeclaredSettingError(
            f"{key}: this job reads it, but its rule does not declare it; add the key to the rule's `settings` in "
            "workflow/rules, so that a change of it plans the job again"
        )


def _completed(value: Any, whole: Any) -> Any:
    """A declared section with its settings that rerun nothing, which come from ``whole``."""
    if not isinstance(value, Mapping) or not dataclasses.is_dataclass(whole):
        return value
    free = {name: getattr(whole, name) for name in _free_fields(cast(Any, type(whole)))}
    return free | {name: _completed(each, getattr(whole, name, None)) for name, each in value.items()}


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    """Name → type of a section's settings and of its properties that are sections."""
    fields = typing.get_type_hints(kind, include_extras=True)
    properties = {
        name: typing.get_type_hints(member.fget)["return"]
        for name, member in vars(kind).items()
        if isinstance(member, property) and member.fget is not None
    }
    return fields | {name: hint for name, hint in properties.items() if dataclasses.is_dataclass(hint)}


@functools.cache
def _free_fields(kind: Any) -> tuple[str, ...]:
    """The settings of a section that rerun nothing."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return tuple(
        name
        for name, hint in hints.items()
        if any(mark is RERUNS_NOTHING for mark in getattr(hint, "__metadata__", ()))
    )
