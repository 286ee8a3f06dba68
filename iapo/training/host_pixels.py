"""Pixels that wait in the host's memory until a pass reads them.

TRL moves the pixels of all rollouts of a step to the GPU at once, in float32: 5 GB for 128 rollouts with two figures of
.8 megapixels, while a pass reads those of one rollout. The overridden method is private to transformers, so its version
is pinned and a test asserts its signature.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

if TYPE_CHECKING:
    from trl import GRPOTrainer as _Trainer
else:
    _Trainer = object

_PIXELS = "pixel_values"


class HostPixelsMixin(_Trainer):
    """Trainer mixin that moves pixels to the model's device with the pass that reads them, and no earlier."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for model in (self.model, self.ref_model):
            if model is not None:
                fetch_pixels(model)

    def _prepare_input(self, data: Any) -> Any:
        if not isinstance(data, Mapping) or _PIXELS not in data:
            return super()._prepare_input(data)
        moved: Any = super()._prepare_input({name: value for name, value in data.items() if name != _PIXELS})
        kind: Any = type(data)
        return kind({**moved, _PIXELS: data[_PIXELS]})


def fetch_pixels(model: nn.Module) -> None:
    """Let the model's vision tower move the pixels that it is given to its own device.

    Args:
        model: a Qwen2.5-VL, wrapped or not.
    """
    for module in model.modules():
        if isinstance(module, Qwen2_5_VisionTransformerPretrainedModel):
            module.register_forward_pre_hook(_to_own_device)


def _to_own_device(tower: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    pixels, *others = arguments
    return (pixels.to(next(tower.parameters()).device, non_blocking=True), *others)
