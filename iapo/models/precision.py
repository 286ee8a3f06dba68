"""Which matmuls run in bf16, TF32 or fp32.

Attribution runs most of its matmuls in the dtype of the model's weights and a few in higher precision: the cached
keys and values, the short target after the prompt, and rotary angles. All context managers restore the settings.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers import PreTrainedModel

_LOW_PRECISION = (torch.bfloat16, torch.float16)


@contextmanager
def lowered(model: PreTrainedModel) -> Iterator[None]:
    """Autocast to the dtype of the model's weights if that is bf16 or fp16 and autocast is not already on."""
    device = model.device.type
    if model.dtype in _LOW_PRECISION and not torch.is_autocast_enabled(device):
        with torch.autocast(device, model.dtype):
            yield
    else:
        yield


@contextmanager
def full_precision(device: torch.device, *, tensor_cores: bool = True) -> Iterator[None]:
    """Turn autocast off; where it was on, let fp32 matmuls on a GPU run in TF32.

    TF32 has 8 times the precision of bf16 at half its speed, while fp32 without tensor cores is several times slower
    still.

    Args:
        device: the device of the matmuls.
        tensor_cores: whether TF32 is allowed. Pass False where rotary angles are computed inside without
            :func:`exact_products`.
    """
    use_tf32 = tensor_cores and torch.is_autocast_enabled(device.type)
    with _fp32_matmul(device, "tf32") if use_tf32 else nullcontext(), torch.autocast(device.type, enabled=False):
        yield


@contextmanager
def exact_products(device: torch.device) -> Iterator[None]:
    """Run fp32 matmuls without TF32.

    Rotary angles need this: TF32 keeps 11 significant bits, so position 2,049 would be rotated like 2,048.

    Args:
        device: the device of the matmuls.
    """
    with _fp32_matmul(device, "ieee"):
        yield


@contextmanager
def _fp32_matmul(device: torch.device, precision: str) -> Iterator[None]:
    """Set how CUDA computes fp32 matmuls; other devices are left alone."""
    if device.type != "cuda":
        yield
        return
    settings = torch.backends.cuda.matmul
    before = settings.fp32_precision
    settings.fp32_precision = precision
    try:
        yield
    finally:
        settings.fp32_precision = before


def in_precision_of(x: Tensor, weight: Tensor) -> Tensor:
    """Return a weight cast to the dtype of ``x``, unless autocast is on and casts both operands itself."""
    if weight.dtype == x.dtype or torch.is_autocast_enabled(x.device.type):
        return weight
    return weight.to(x.dtype)


def passed(module: nn.Module, x: Tensor) -> Tensor:
    """Return ``module(x)`` with every weight cast by :func:`in_precision_of`."""
    weights = {name: in_precision_of(x, weight) for name, weight in module.named_parameters()}
    output: Tensor = functional_call(module, weights, (x,))
    return output
