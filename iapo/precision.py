"""In which precision products are taken: low where they are many, full where the others rest on them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

_LOW = (torch.bfloat16, torch.float16)


@contextmanager
def lowered(model: Any) -> Iterator[None]:
    """Autocast to the precision of the model's weights, where that is low and the caller has not begun it."""
    device = model.device.type
    if model.dtype in _LOW and not torch.is_autocast_enabled(device):
        with torch.autocast(device, model.dtype):
            yield
    else:
        yield


@contextmanager
def full_precision(device: torch.device, *, tensor_cores: bool = True) -> Iterator[None]:
    """No autocast. Where it was on, a GPU keeps its tensor cores: TF32 has 8 times bfloat16's precision and half its
    speed; an H100 without them is 8 times slower. Rounded to TF32 on a CPU, mini's shares move by .0005.

    Args:
        device: of the products.
        tensor_cores: not where positions are turned inside without :func:`exact_products`.
    """
    fast = tensor_cores and torch.is_autocast_enabled(device.type)
    with _products(device, "tf32") if fast else nullcontext(), torch.autocast(device.type, enabled=False):
        yield


@contextmanager
def exact_products(device: torch.device) -> Iterator[None]:
    """Without TF32 too: of positions it would keep eleven bits, and 2,049 would turn as 2,048 does."""
    with _products(device, "ieee"):
        yield


@contextmanager
def _products(device: torch.device, precision: str) -> Iterator[None]:
    """What products of fp32 are taken in on a GPU; elsewhere they are what they are."""
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
    """A weight for a product with ``x``: raised where it is lower, unless autocast lowers both."""
    if weight.dtype == x.dtype or torch.is_autocast_enabled(x.device.type):
        return weight
    return weight.to(x.dtype)


def passed(module: nn.Module, x: Tensor) -> Tensor:
    """What a module makes of ``x``, with its weights :func:`in_precision_of` it."""
    weights = {name: in_precision_of(x, weight) for name, weight in module.named_parameters()}
    output: Tensor = functional_call(module, weights, (x,))
    return output
