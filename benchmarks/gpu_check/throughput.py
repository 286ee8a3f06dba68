"""Check (a): versions, and what the card does of arithmetic and of memory traffic."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.gpu_check.clock import seconds
from benchmarks.gpu_check.finding import Finding
from benchmarks.gpu_check.scale import Scale

PACKAGES = ("torch", "transformers", "accelerate", "numpy", "trl", "peft", "datasets", "pydantic", "captum")


def throughput(scale: Scale, device: torch.device, work: Path) -> Finding:
    """Measure matrix products in three precisions, a copy, and reading weights as decoding does."""
    figures: dict[str, object] = {"python": platform.python_version(), "versions": versions()}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        figures |= {
            "card": properties.name,
            "memory_gb": properties.total_memory / 1e9,
            "compute_capability": f"{properties.major}.{properties.minor}",
            "cuda": torch.version.cuda,
        }
    for name, dtype, precision in (
        ("bf16", torch.bfloat16, "ieee"),
        ("tf32", torch.float32, "tf32"),
        ("fp32", torch.float32, "ieee"),
    ):
        figures[f"{name}_tflops"] = _matmul_tflops(scale, device, dtype, precision)
    figures["copy_tb_s"] = _copy_bandwidth(scale, device)
    figures["decode_tb_s"] = decode_bandwidth(scale, device)
    return Finding(figures)


def versions() -> dict[str, str]:
    """Return the versions of the packages that the figures depend on; an absent one is left out."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _matmul_tflops(scale: Scale, device: torch.device, dtype: torch.dtype, precision: str) -> float:
    a, b = (torch.randn(scale.matmul, scale.matmul, device=device, dtype=dtype) for _ in range(2))
    settings = torch.backends.cuda.matmul
    before = settings.fp32_precision
    settings.fp32_precision = precision
    try:
        taken = seconds(lambda: torch.mm(a, b), device, 5 * scale.repeats)
    finally:
        settings.fp32_precision = before
    return float(2 * scale.matmul**3 / taken / 1e12)


def _copy_bandwidth(scale: Scale, device: torch.device) -> float:
    source = torch.empty(scale.copied, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    # Read and written.
    return 2 * scale.copied / seconds(lambda: target.copy_(source), device, 5 * scale.repeats) / 1e12


def decode_bandwidth(scale: Scale, device: torch.device) -> float:
    """Return how fast one token of each of 16 sequences reads the student's MLPs, TB/s of weights.

    Args:
        scale: sizes of the MLPs; all layers' are read in turn, so that none is found in a cache.
        device: where.
    """
    size = scale.student
    weights = [
        torch.randn(size.mlp, size.hidden, device=device, dtype=torch.bfloat16) / size.hidden
        for _ in range(size.layers)
    ]
    hidden = torch.randn(16, size.hidden, device=device, dtype=torch.bfloat16)

    def token() -> list[Tensor]:
        return [functional.linear(hidden, weight) for weight in weights]

    read = sum(weight.nbytes for weight in weights)
    return read / seconds(token, device, 5 * scale.repeats) / 1e12
