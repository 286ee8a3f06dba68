"""The file of a measured card, ``results/reference/gpu_<card>.json``, which the estimate reads."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from iapo.artifacts.files import write_json


def card_name() -> str:
    """Return the name of the GPU that checks run on, or ``cpu``."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def file_stem(card: str) -> str:
    """Return the name of a card's file, without its ending."""
    return "gpu_" + re.sub(r"[^a-z0-9]+", "_", card.lower()).strip("_")


def write_card(path: Path, card: str, scale: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write what was found about a card, whole or not at all.

    Args:
        path: of the file.
        card: its name.
        scale: at which it was checked.
        rows: outcomes of the checks; a check that is missing was not run.
    """
    checks = {row["check"]: {name: value for name, value in row.items() if name != "check"} for row in rows}
    write_json(path, {"card": card, "scale": scale, "hardware": sustained(checks), "checks": checks})


def sustained(checks: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Return the settings `hardware.*` of the estimate that the checks have measured.

    Arithmetic is that of a training step's update, or where none was measured that of attribution; bandwidth that of
    reading weights for 16 sequences.
    """
    found: dict[str, float] = {}
    for name, of_check in (("attribution", ("bfloat16", "sustained_tflops")), ("steps", ("sustained_tflops",))):
        value: Any = checks.get(name, {}).get("figures", {})
        for key in of_check:
            value = value.get(key, {})
        if value:
            found["tflops"] = value
    if bandwidth := checks.get("throughput", {}).get("figures", {}).get("decode_tb_s"):
        found["bandwidth_tb"] = bandwidth
    return found
