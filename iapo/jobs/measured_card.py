"""What a card was measured to sustain, in place of what the estimate assumes of it. No torch."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from iapo.config.schema import ConfigError
from iapo.config.sources import HardwareConfig

_MEASURED = ("tflops", "bandwidth_tb")
"""Settings that a card's file may say."""


def measured_hardware(hardware: HardwareConfig) -> HardwareConfig:
    """The settings with a measured card's figures in place; themselves where no card's file is named.

    Args:
        hardware: of the run; ``measured`` names the file.

    Raises:
        ConfigError: for a file that is missing, unreadable, of tiny shapes, or without either figure.
    """
    if hardware.measured is None:
        return hardware
    figures = _figures(Path(hardware.measured))
    return dataclasses.replace(
        hardware,
        tflops=figures.get("tflops", hardware.tflops),
        bandwidth_tb=figures.get("bandwidth_tb", hardware.bandwidth_tb),
    )


def _figures(path: Path) -> dict[str, float]:
    try:
        card: dict[str, Any] = json.loads(path.read_text())
        scale, found = card["scale"], card["hardware"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"hardware.measured: found no measured card in {path} ({type(error).__name__}: {error}); `make gpu_check` "
            "writes one (config/README.md)"
        ) from None
    figures = {name: found[name] for name in _MEASURED if name in found}
    if scale != "real" or not figures:
        raise ConfigError(
            f"hardware.measured: found {', '.join(figures) or 'no figure'} at the scale {scale!r} in {path}; expected "
            f"{' or '.join(_MEASURED)} at 'real', as `make gpu_check` writes it on a GPU (config/README.md)"
        )
    return figures
