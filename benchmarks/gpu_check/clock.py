"""Timing on a GPU, whose work goes on after a call returns, and where a pass's time goes."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import torch
from torch.profiler import ProfilerActivity, profile

_MATMUL = re.compile(r"gemm|gemv|cutlass|cublas|nvjet|xmma|flash|fmha|attention|::mm|::bmm|addmm|mkldnn_linear", re.I)
"""In the names of kernels and operators that multiply matrices, attention's among them."""


def seconds(run: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Return the median time of a function, after one run that does not count.

    Args:
        run: the function.
        device: whose work is waited for.
        repeats: runs that count.
    """
    run()
    return median(_timed(run, device) for _ in range(repeats))


def _timed(run: Callable[[], object], device: torch.device) -> float:
    _finish(device)
    started = time.perf_counter()
    run()
    _finish(device)
    return time.perf_counter() - started


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass
class Peak:
    """Most memory that was allocated in a block beyond what was there before."""

    gigabytes: float | None = None
    """Set as the block ends; None on a CPU, whose allocator does not count."""


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Peak]:
    """Measure the memory that a ``with`` block takes on a GPU."""
    found = Peak()
    if device.type != "cuda":
        yield found
        return
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    yield found
    found.gigabytes = (torch.cuda.max_memory_allocated(device) - before) / 1e9


def shares_of_time(run: Callable[[], object], device: torch.device) -> dict[str, float]:
    """Return which parts of a function's time go to matrix products, to other kernels, and to launching them.

    Args:
        run: the function.
        device: where its kernels run.

    Returns:
        Shares of the wall-clock time without the profiler. ``launch`` is what no kernel runs in; on a CPU, Python's.
    """
    cuda = device.type == "cuda"
    whole = seconds(run, device, 1)
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as found:
        run()
        _finish(device)
    matmul = elementwise = 0.0
    for event in found.key_averages():
        on_gpu = event.device_type == torch.autograd.DeviceType.CUDA
        if on_gpu != cuda:
            continue
        spent = (event.self_device_time_total if cuda else event.self_cpu_time_total) / 1e6
        if _MATMUL.search(event.key):
            matmul += spent
        else:
            elementwise += spent
    # A profiled operator is slower than itself: the parts of a CPU are held to the whole.
    scale = min(1.0, whole / max(matmul + elementwise, 1e-9))
    shares = {"matmul": matmul * scale / whole, "elementwise": elementwise * scale / whole}
    return {**shares, "launch": max(0.0, 1 - sum(shares.values()))}
