"""What FSDP2 needs beside TRL's own code: a KL reference with the checkpoint's weights, an untied head's gradient,
whole weights while transformers generates, and a CPU that is sharded over too.

TRL loads the reference after torch.distributed has started, where transformers gives zeros to every process but the
first, and shards it without handing the first one's weights to the others. And its fused head gathers the weight by
``full_tensor``, whose backward takes every process's gradient for the same, where each has rollouts of its own. Both
were reproduced on two processes. While processes generate turns of different lengths, none may wait for the others to
gather a layer, so each holds the weights whole. And accelerate shards over GPUs alone; that it shards over a CPU's
processes too lets a rehearsal run what the GPUs will run. The overridden methods are private to TRL, so its version is
pinned and a test asserts their signatures.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, cast
from unittest.mock import patch

import accelerate.accelerator
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from torch import nn
from torch.distributed.fsdp import FSDPModule
from trl.models import prepare_fsdp
from trl.trainer import grpo_trainer

from iapo.models.fsdp import held_whole

if TYPE_CHECKING:
    from trl import GRPOTrainer as _Trainer
else:
    _Trainer = object


class ShardedMixin(_Trainer):
    """Trainer mixin that keeps FSDP2's reference and output head right; changes nothing without shards."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        with (
            patch.object(grpo_trainer, "prepare_fsdp", sharded_reference),
            patch.object(accelerate.accelerator, "AcceleratorState", StateShardedOnCpu),
        ):
            super().__init__(*args, **kwargs)

    def _generate(self, prompts: list[Any]) -> tuple[Any, ...]:
        # Around both turns: the second is written by those processes alone that have a call to go on from.
        with nullcontext() if self.use_vllm else held_whole(self.model_wrapped):
            output: tuple[Any, ...] = super()._generate(prompts)
        return output

    def _get_per_token_logps_and_entropies(self, model: nn.Module, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        with gathered_head(self.accelerator.unwrap_model(model)):
            found: tuple[Any, ...] = super()._get_per_token_logps_and_entropies(model, *args, **kwargs)
        return found


class StateShardedOnCpu(AcceleratorState):
    """accelerate's state, with FSDP's settings taken where several processes share a CPU, as it takes them on GPUs."""

    def __init__(self, *args: Any, fsdp_plugin: FullyShardedDataParallelPlugin | None = None, **kwargs: Any) -> None:
        super().__init__(*args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None and PartialState().distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin
            PartialState._shared_state["distributed_type"] = DistributedType.FSDP


def sharded_reference(model: nn.Module, accelerator: Accelerator) -> nn.Module:
    """Shard a reference as accelerate shards the policy: every process receives the first one's weights.

    Args:
        model: the reference; zeros in every process but the first of a machine.
        accelerator: of the run.
    """
    if accelerator.state.fsdp_plugin.fsdp_version != 2:
        return cast(nn.Module, prepare_fsdp(model, accelerator))
    sharded = cast(nn.Module, fsdp2_prepare_model(accelerator, model))
    return sharded.eval()


@contextmanager
def gathered_head(model: Any) -> Iterator[None]:
    """Gather the output head where it is sharded by itself, so that its gradient is averaged as every other weight's.

    Where a gradient is wanted the head stays gathered until FSDP2 has reduced it behind the backward pass.

    Args:
        model: a causal language model, sharded or not.
    """
    head = model.get_output_embeddings()
    if not isinstance(head, FSDPModule):
        yield
        return
    head.unshard()
    try:
        yield
    finally:
        if not torch.is_grad_enabled():
            head.reshard()
