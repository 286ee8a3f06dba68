"""Raw records, and the errors raised where one is malformed or unusable.

Every message names the file, the record and the field, since a dataset has thousands of records.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class IngestError(ValueError):
    """Raised for malformed raw data; the message names file, record and field, and what to do."""


@dataclass(frozen=True)
class Record:
    """One raw record; looking up a missing field raises an error that names it."""

    path: Path
    """The file that holds the record."""
    name: str
    """The record's id in that file."""
    fields: Mapping[str, Any]
    """The record's JSON object."""

    @property
    def where(self) -> str:
        """The record's location, for error messages."""
        return f"{self.path}, record {self.name!r}"

    def __getitem__(self, name: str) -> Any:
        if name not in self.fields:
            raise IngestError(f"{self.where}: field {name!r} not found among {sorted(self.fields)}")
        return self.fields[name]


class LeftOutError(IngestError):
    """Raised for a record that cannot be used although the rest of its file can."""

    def __init__(self, record: Record, reason: str, found: str) -> None:
        super().__init__(f"{record.where}: {found}")
        self.reason = reason
        """Short reason, the key under which reports group the records left out."""
