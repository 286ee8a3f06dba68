"""Gathering of FSDP2-sharded weights that are read outside the model's own forward pass.

Attribution runs parts of the model by itself, where FSDP's forward hooks do not gather the weights. Gathering is a
collective operation: every process must enter these context managers together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from accelerate.state import AcceleratorState
from torch import nn
from torch.distributed.fsdp import FSDPModule

from iapo.models.interfaces import QwenVL


def is_sharded(model: Any) -> bool:
    """Return whether FSDP2 shards any part of a model; takes any module, as trainers type theirs loosely."""
    return bool(_units(model))


def keeps_step(model: Any, state: AcceleratorState) -> bool:
    """Return whether the processes hold shards of one model, FSDP2's or ZeRO-3's, and must run equally many passes.

    Args:
        model: the model, sharded or not.
        state: accelerate's.
    """
    deepspeed = getattr(state, "deepspeed_plugin", None)
    return is_sharded(model) or (deepspeed is not None and deepspeed.zero_stage == 3)


@contextmanager
def gathered_root(model: QwenVL) -> Iterator[None]:
    """Gather the embeddings and all other weights outside the transformer layers in every process.

    Args:
        model: the model, sharded or not.
    """
    with _gathered(model, lambda module: module is model or _holds_embeddings(module, model)):
        yield


@contextmanager
def gathered_decoder(model: QwenVL) -> Iterator[None]:
    """Gather all weights but those of the vision tower's layers in every process, 2 bytes each if they are bf16.

    Args:
        model: the model, sharded or not.
    """
    with _gathered(model, lambda module: all(module is not part for part in model.model.visual.modules())):
        yield


@contextmanager
def held_whole(model: nn.Module) -> Iterator[None]:
    """Gather all weights in every process, and keep them so while each of them generates on its own.

    Without it a forward pass gathers layer by layer, and processes that take unequal numbers of passes, as for turns of
    unequal lengths, wait for each other for ever.

    Args:
        model: the model, sharded or not.
    """
    units = _units(model)
    if not units:
        yield
        return
    for unit in units:
        unit.set_reshard_after_forward(False, recurse=False)
    with _gathered(model, lambda _: True), _generating_alone(model):
        yield
    for unit in units:
        # As TRL's settings of accelerate have it.
        unit.set_reshard_after_forward(True, recurse=False)


@contextmanager
def _generating_alone(model: Any) -> Iterator[None]:
    """Let ``model.generate`` neither wait for other processes at every token nor give weights up behind a call.

    transformers' trainer hangs FSDP's hooks on the method, and the method itself keeps step where it sees FSDP.
    """
    hooked = vars(model).pop("generate", None)
    vars(model)["generate"] = partial(model.generate, synced_gpus=False)
    try:
        yield
    finally:
        del vars(model)["generate"]
        if hooked is not None:
            vars(model)["generate"] = hooked


@contextmanager
def _gathered(model: nn.Module, is_selected: Callable[[Any], bool]) -> Iterator[None]:
    units = _units(model)
    for root in units[:1]:
        # Before its first forward pass: a part that runs earlier takes itself for the root, and the root's pass fails.
        root._get_fsdp_state()._lazy_init()
    sharded = [module for module in units if is_selected(module)]
    for module in sharded:
        module.unshard()
    try:
        yield
    finally:
        for module in sharded:
            module.reshard()


def _units(model: nn.Module) -> list[FSDPModule]:
    """Return the parts that FSDP2 gathers each by itself, the whole model first."""
    return [module for module in model.modules() if isinstance(module, FSDPModule)]


def _holds_embeddings(module: nn.Module, model: QwenVL) -> bool:
    """Return whether a module contains the token embeddings or the whole vision tower."""
    return any(part is model.get_input_embeddings() or part is model.model.visual for part in module.modules())
