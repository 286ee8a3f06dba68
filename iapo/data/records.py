"""One raw record, and what is said where it is not what it should be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class IngestError(ValueError):
    """Raw data is not what it should be; the message names file, record and field, and what to do."""


@dataclass(frozen=True)
class Record:
    """One raw record, whose missing fields name themselves."""

    path: Path
    """The file that it is from."""
    name: str
    """Its id there."""
    fields: Mapping[str, Any]

    @property
    def where(self) -> str:
        """For messages."""
        return f"{self.path}, record {self.name!r}"

    def __getitem__(self, name: str) -> Any:
        if name not in self.fields:
            raise IngestError(f"{self.where}: field {name!r} not found among {sorted(self.fields)}")
        return self.fields[name]


class LeftOutError(IngestError):
    """One record cannot be used, while the others of its file can."""

    def __init__(self, record: Record, reason: str, found: str) -> None:
        super().__init__(f"{record.where}: {found}")
        self.reason = reason
        """Short, the same for all records that are left out for it."""
