"""The running mean of a model's weights over training steps, kept beside the checkpoints of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from iapo.artifacts.files import atomic_write


class WeightAverage:
    """Mean of the state dicts that it was given, in float32; buffers and others that are no floats keep their last."""

    def __init__(self) -> None:
        self._mean: dict[str, Tensor] = {}
        self._count = 0

    def add(self, weights: Mapping[str, Tensor]) -> None:
        """Take one more state dict into the mean."""
        self._count += 1
        for name, value in weights.items():
            if name not in self._mean or not value.is_floating_point():
                self._mean[name] = value.detach().float().clone() if value.is_floating_point() else value.clone()
            else:
                self._mean[name] += (value.detach().float() - self._mean[name]) / self._count

    def weights(self, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the mean as a state dict with the precision, device and tied weights of another one of its names."""
        # Tied weights must stay one tensor, or both would be saved.
        means: dict[tuple[int, torch.Size], Tensor] = {}
        return {
            name: means.setdefault((value.data_ptr(), value.shape), self._mean[name].to(value))
            for name, value in like.items()
        }

    def save(self, folder: Path, step: int) -> None:
        """Write the mean as it is after a step, and delete those of earlier steps but the last two, atomically."""
        folder.mkdir(parents=True, exist_ok=True)
        # Tied weights are one tensor under two names, which the format refuses.
        tensors = {name: value.contiguous().clone() for name, value in self._mean.items()}
        with atomic_write(_path(folder, step)) as tmp:
            save_file(tensors | {_COUNT: torch.tensor(self._count)}, tmp)
        older = sorted(int(path.stem) for path in folder.glob("*.safetensors") if int(path.stem) < step)
        for each in older[:-1]:
            _path(folder, each).unlink()

    @classmethod
    def load(cls, folder: Path, step: int) -> WeightAverage:
        """Return the mean that :meth:`save` wrote after a step.

        Raises:
            FileNotFoundError: if there is none.
        """
        if not _path(folder, step).exists():
            raise FileNotFoundError(
                f"found no {_path(folder, step)}, expected the mean of the weights at this checkpoint; delete "
                f"{folder.parent} to train again"
            )
        average = cls()
        average._mean = load_file(_path(folder, step))
        average._count = int(average._mean.pop(_COUNT))
        return average


_COUNT = "steps_in_the_mean"


def _path(folder: Path, step: int) -> Path:
    return folder / f"{step}.safetensors"
