"""Which precision products are taken in."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from iapo.models.precision import exact_products, full_precision, lowered, passed

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
