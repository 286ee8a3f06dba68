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
    # What the run is, then one part a section.
    parts: dict[str, list[str]] = {"The run": []}
    for row in _reference_rows(schema, schema, ""):
        section, dot, _ = row.partition("`")[2].partition("`")[0].partition(".")
        parts.setdefault(section if dot else "The run", []).append(row)
    lines = [
        "# Configuration",
        "",
        "This page lists every setting of a run, its default and what it means. It is written by `make config`.",
        "",
        "A profile is one YAML file. It is laid over [mini.yaml](mini.yaml): a key that is left out has mini's value,",
        "or where mini does not set it, the default below. Any key can also be set on the command line:",
        "",
        "```",
        "snakemake results/table.csv --cores all --config seeds='[0]'",
        "```",
        "",
        "A dot stands for a level of the file: `train.steps` is `train: {steps: 60}`.",
        "",
    ]
    for name, rows in parts.items():
        lines += [f"## {name}", "", "| key | default | meaning |", "| --- | --- | --- |", *rows, ""]
    return "\n".join(lines)


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
