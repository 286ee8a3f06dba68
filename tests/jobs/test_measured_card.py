"""A measured card's figures take the place of what the estimate assumes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from baselines import METHODS
from iapo.config.schema import ConfigError
from iapo.config.sources import HardwareConfig
from iapo.jobs.estimate import estimate, read_config
from iapo.jobs.measured_card import measured_hardware

PAPER = Path(__file__).parents[2] / "config" / "paper.yaml"


def card(path: Path, hardware: dict[str, float], scale: str = "real") -> str:
    path.write_text(json.dumps({"card": "a card", "scale": scale, "hardware": hardware}))
    return str(path)


def test_without_a_file_nothing_changes() -> None:
    assert measured_hardware(HardwareConfig()) == HardwareConfig()


def test_measured_figures_take_their_settings_place_and_nothing_else(tmp_path: Path) -> None:
    given = HardwareConfig(processes=4, tflops=400, bandwidth_tb=2, measured=card(tmp_path / "c", {"tflops": 200}))
    assert measured_hardware(given) == replace(given, tflops=200)
    both = replace(given, measured=card(tmp_path / "d", {"tflops": 200, "bandwidth_tb": 1.5}))
    assert measured_hardware(both) == replace(both, tflops=200, bandwidth_tb=1.5)


def test_the_estimate_reads_it(tmp_path: Path) -> None:
    config = read_config([PAPER])
    slow = replace(config.hardware, measured=card(tmp_path / "c", {"tflops": 60, "bandwidth_tb": 0.5}))
    found, assumed = (estimate(each, METHODS) for each in (replace(config, hardware=slow), config))
    assert found.assumes == "60 TFLOP/s and 0.5 TB/s a GPU"
    assert found.gpu_hours > 1.2 * assumed.gpu_hours
    assert found.memory_gb == assumed.memory_gb


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "found no measured card in .*FileNotFoundError"),
        ("not json", "found no measured card in .*JSONDecodeError"),
        ([], "found no measured card in .*TypeError"),
        ({"scale": "real"}, "found no measured card in .*KeyError: 'hardware'"),
        ({"scale": "real", "hardware": {}}, "found no figure at the scale 'real'"),
        ({"scale": "tiny", "hardware": {"tflops": 1e-3}}, "found tflops at the scale 'tiny'"),
    ],
)
def test_a_file_that_is_none_of_a_gpu_is_refused(content: Any, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "card.json"
    if content is not None:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ConfigError, match=f"hardware.measured: {problem}"):
        measured_hardware(HardwareConfig(measured=str(path)))
