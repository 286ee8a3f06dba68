"""The documents that follow from the dataclasses: ``python -m iapo.config.reference`` writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from iapo.config.schema import config_schema


def config_reference() -> str:
    """``config/README.md``: every key, its default and what it means, from the schema."""
    schema = config_schema()
    lines = [
        "# Configuration",
        "",
        "A profile is one YAML file. Any key can be left out for its default, or set on the command line:",
        "`snakemake --cores all results/table.csv --config seeds='[0]'`. Written by `make config`.",
        "",
        "| key | default | meaning |",
        "| --- | --- | --- |",
        *_reference_rows(schema, schema, ""),
    ]
    return "\n".join(lines) + "\n"


def _reference_rows(schema: Mapping[str, Any], section: Mapping[str, Any], prefix: str) -> list[str]:
    rows: list[str] = []
    for name, entry in section["properties"].items():
        target = entry.get("$ref") or (entry.get("allOf") or [{}])[0].get("$ref")
        if target:
            rows += _reference_rows(schema, schema["$defs"][target.rpartition("/")[2]], f"{prefix}{name}.")
        else:
            default = f"`{json.dumps(entry['default'])}`" if "default" in entry else "–"
            # A table's row is one line.
            meaning = " ".join(entry.get("description", "").split())
            kept = "" if entry.get("reruns", True) else " *Changing it reruns nothing.*"
            rows.append(f"| `{prefix}{name}` | {default} | {meaning}{kept} |")
    return rows


if __name__ == "__main__":
    # Rewrites the documents that follow from the dataclasses; run from the project's root.
    Path("config/README.md").write_text(config_reference())
    Path("workflow/schemas").mkdir(exist_ok=True)
    Path("workflow/schemas/config.schema.json").write_text(json.dumps(config_schema(), indent=1) + "\n")
