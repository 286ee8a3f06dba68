"""A digest of a JSON record that stands in the record itself, so that a changed byte is noticed when it is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from iapo.artifacts.files import digest

SEAL = "record_sha256"
"""Key of the digest, the last of its record."""


def seal(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record of JSON values with the digest of all of them."""
    return {**record, SEAL: _digest(record)}


def is_broken(record: Mapping[str, Any]) -> bool:
    """Return whether a record that was read differs from what was sealed; records of older code have no seal."""
    return SEAL in record and record[SEAL] != _digest({key: value for key, value in record.items() if key != SEAL})


def _digest(record: Mapping[str, Any]) -> str:
    return digest(json.dumps(record).encode())
