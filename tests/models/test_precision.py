"""Which precision products are taken in."""

import re
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch
from torch import nn

from iapo.artifacts.code_digest import ROOT
from iapo.config.schema import Config
from iapo.config.sources import HardwareConfig, Precision
from iapo.models.loading import load_to_run, save_model
from iapo.models.precision import exact_products, full_precision, lowered, passed

pytestmark = pytest.mark.gpu_run

GPU = torch.device("cuda")
PRODUCTS = torch.backends.cuda.matmul
"""Its settings are there without a GPU."""


def test_a_gpu_keeps_its_tensor_cores_but_for_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    before = PRODUCTS.fp32_precision
    with full_precision(GPU):
        assert PRODUCTS.fp32_precision == before
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: True)
    with full_precision(GPU, tensor_cores=False):
        assert PRODUCTS.fp32_precision == before
    with full_precision(GPU):
        assert PRODUCTS.fp32_precision == "tf32"
        with exact_products(GPU):
            assert PRODUCTS.fp32_precision == "ieee"
        assert PRODUCTS.fp32_precision == "tf32"
    assert PRODUCTS.fp32_precision == before
    with pytest.raises(RuntimeError, match="inside"), full_precision(GPU):
        raise RuntimeError("inside")
    assert PRODUCTS.fp32_precision == before


def test_weights_are_raised_to_what_passes_them() -> None:
    layer, x = nn.Linear(8, 8).to(torch.bfloat16), torch.randn(3, 8)
    raised = nn.Linear(8, 8)
    raised.load_state_dict({name: each.float() for name, each in layer.state_dict().items()})
    assert torch.equal(passed(layer, x), raised(x))
    with torch.autocast("cpu", torch.bfloat16):
        assert passed(layer, x).dtype == torch.bfloat16
        with full_precision(x.device):
            assert torch.equal(passed(layer, x), raised(x))


@pytest.mark.parametrize(("dtype", "expected"), [(torch.float32, False), (torch.bfloat16, True)])
def test_products_are_lowered_to_low_weights_alone(dtype: torch.dtype, expected: bool) -> None:
    model = SimpleNamespace(device=torch.device("cpu"), dtype=dtype)
    with lowered(model):
        assert torch.is_autocast_enabled("cpu") == expected
        assert not expected or torch.get_autocast_dtype("cpu") == dtype
    assert not torch.is_autocast_enabled("cpu")


def test_a_model_that_only_runs_has_the_configured_precision(tiny: tuple[Any, Any], tmp_path: Path) -> None:
    save_model(*tiny, tmp_path / "model")
    for precision in get_args(Precision):
        config = Config(profile="test", hardware=HardwareConfig(precision=precision))
        model, _ = load_to_run(tmp_path / "model", config)
        assert {weight.dtype for weight in model.parameters()} == {getattr(torch, precision)}


def test_every_key_of_the_hardware_is_read_by_what_runs() -> None:
    reckoning = {"stages", "times", "estimate", "memory", "measured_card", "sources"}
    told = "\n".join(
        path.read_text()
        for folder in ("iapo", "baselines", "workflow")
        for path in sorted((ROOT / folder).rglob("*"))
        if path.suffix in (".py", ".smk") and path.stem not in reckoning
    )
    # The card's speed says how long a run takes, and nothing else; trials have a number of processes of their own.
    told_by_another = {"tflops", "bandwidth_tb", "measured", "trials_on_one_gpu"}
    keys = {each.name for each in fields(HardwareConfig)} - told_by_another
    assert [key for key in sorted(keys) if not re.search(rf"hardware\.{key}\b", told)] == []
    assert "hardware.of_trials.processes" in told
