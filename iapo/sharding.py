"""Weights that FSDP2 spreads over processes, where they are read outside the model's own forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch.distributed.fsdp import FSDPModule


def is_sharded(model: Any) -> bool:
    """Whether FSDP2 shards some part of it."""
    return any(isinstance(module, FSDPModule) for module in model.modules())


@contextmanager
def gathered_root(model: Any) -> Iterator[None]:
    """Embeddings and what else is outside the layers: all of it in every process.

    Args:
        model: a ``Qwen2_5_VLForConditionalGeneration``, sharded or not; every process must come here together.
    """
    with _gathered(model, lambda module: module is model or _holds_embeddings(module, model)):
        yield


@contextmanager
def gathered_decoder(model: Any) -> Iterator[None]:
    """All but the vision tower's layers in every process: 2 bytes a weight and process where it computes in bfloat16.

    Args:
        model: as above.
    """
    with _gathered(model, lambda module: all(module is not each for each in model.model.visual.modules())):
        yield


@contextmanager
def _gathered(model: Any, chosen: Callable[[Any], bool]) -> Iterator[None]:
    sharded = [module for module in model.modules() if isinstance(module, FSDPModule) and chosen(module)]
    for module in sharded:
        module.unshard()
    try:
        yield
    finally:
        for module in sharded:
            module.reshard()


def _holds_embeddings(module: Any, model: Any) -> bool:
    return any(each is model.get_input_embeddings() or each is model.model.visual for each in module.modules())
