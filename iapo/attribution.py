"""Integrated gradients of a tool call's log-probability, summed per prompt block.

Sundararajan et al. (arXiv 1703.01365) on the merged input embeddings of Qwen2.5-VL, from a baseline input
(pad embedding for text, the image's mean token for image tokens) to the prompt. Template tokens, the call
itself and padding stay fixed along the path. The zero embedding is no baseline here: RMSNorm makes the
path scale-free near zero, and completeness fails whatever the quadrature.

Shapes: B rows, L tokens, D channels, K = 4 blocks, A path points.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from iapo.alignment import BLOCKS
from iapo.config import AttributionConfig
from iapo.types import BlockAttribution

_LEAST_DELTA = 0.5
"""Smallest denominator of the completeness residual, nats."""


@dataclass(frozen=True)
class _Path:
    """Everything about the rows that does not move along the path."""

    inputs_BLD: Tensor
    difference_BLD: Tensor
    """Input minus baseline; zero wherever a token is no feature."""
    positions_3BL: Tensor
    attention_BL: Tensor
    ids_BL: Tensor
    target_BL: Tensor

    def rows(self, index: Tensor) -> _Path:
        return _Path(
            self.inputs_BLD[index],
            self.difference_BLD[index],
            self.positions_3BL[:, index],
            self.attention_BL[index],
            self.ids_BL[index],
            self.target_BL[index],
        )


def attribute(model: Any, batch: Mapping[str, Tensor], *, config: AttributionConfig) -> BlockAttribution:
    """Attribute each row's target tokens to the blocks of its prompt.

    Works inside the caller's ``torch.no_grad()`` and autocast, and with left or right padding.

    Args:
        model: a ``Qwen2_5_VLForConditionalGeneration``; the modes of its modules and its parameters' ``.grad``
            are left as they were. The path is fp32 whatever the weights are.
        batch: ``input_ids, attention_mask, mm_token_type_ids`` [B, L]; ``pixel_values`` and
            ``image_grid_thw`` of all images in row order, or absent; ``target_mask`` bool [B, L], the
            tokens whose log-probability is attributed, in one span or several; ``block_ids`` int [B, L], 0 P, 1 R,
            2 I, 3 T, -1 none (template, target, padding).
        config: points, tolerance, baseline, rows in one forward pass.

    Returns:
        Block sums in nats, float64, on the model's device. A row without target tokens is all zeros, its
        residual too.

    Raises:
        ValueError: for inputs that do not fit together, or a model without a pad token.
    """
    batch = {name: tensor.to(model.device) for name, tensor in batch.items() if tensor is not None}
    _check(batch, model.config.image_token_id)
    with _evaluating(model), torch.enable_grad():
        path = _path(model, batch)
        baseline_BLD = path.inputs_BLD - path.difference_BLD
        delta = _log_probability(model, path, path.inputs_BLD, config) - _log_probability(
            model, path, baseline_BLD, config
        )
        tokens_BL, residual = _integrate(model, path, delta, config)
    # Row 0 of the shifted one-hot is "no block".
    members = functional.one_hot(batch["block_ids"].long() + 1, len(BLOCKS) + 1)[..., 1:].double()
    return BlockAttribution(
        signed=torch.einsum("bl,blk->bk", tokens_BL, members),
        l1=torch.einsum("bl,blk->bk", tokens_BL.abs(), members),
        residual=residual,
        delta_f=delta,
    )


def _integrate(model: Any, path: _Path, delta: Tensor, config: AttributionConfig) -> tuple[Tensor, Tensor]:
    """Token attributions [B, L] and residuals [B]; rows that fail completeness get three times the points."""
    points = config.points
    total = _sum_over_points(model, path, _midpoints(points), config)
    tokens = total / points
    bad = (_residual(tokens, delta) > config.tolerance).nonzero()[:, 0]
    if len(bad):
        # The 3n midpoints contain the n old ones, at every index that is 1 modulo 3.
        finer = _midpoints(3 * points)
        new = finer[torch.arange(3 * points) % 3 != 1]
        more = _sum_over_points(model, path.rows(bad), new, config)
        tokens[bad] = (total[bad] + more) / (3 * points)
    return tokens, _residual(tokens, delta)


def _midpoints(points: int) -> Tensor:
    return (torch.arange(points, dtype=torch.float64) + 0.5) / points


def _residual(tokens_BL: Tensor, delta: Tensor) -> Tensor:
    return (tokens_BL.sum(1) - delta).abs() / delta.abs().clamp(min=_LEAST_DELTA)


def _sum_over_points(model: Any, path: _Path, alphas: Tensor, config: AttributionConfig) -> Tensor:
    """Σ over points of gradient · difference, per token: [B, L] float64."""
    B, L, _ = path.inputs_BLD.shape
    total = torch.zeros(B, L, dtype=torch.float64, device=path.inputs_BLD.device)
    for rows in torch.arange(B, device=total.device).split(config.rows_per_forward):
        some = path.rows(rows)
        for chunk in alphas.split(max(1, config.rows_per_forward // len(rows))):
            total[rows] += _gradient_dot_difference(model, some, chunk)
    return total


def _gradient_dot_difference(model: Any, path: _Path, alphas_A: Tensor) -> Tensor:
    A = len(alphas_A)
    scale = (1 - alphas_A).to(path.inputs_BLD).view(A, 1, 1, 1)
    moved = (path.inputs_BLD - scale * path.difference_BLD).flatten(0, 1).requires_grad_(True)
    repeated = _Path(
        moved,
        path.difference_BLD,
        path.positions_3BL.repeat(1, A, 1),
        path.attention_BL.repeat(A, 1),
        path.ids_BL.repeat(A, 1),
        path.target_BL.repeat(A, 1),
    )
    # Gradients at the embeddings alone: parameters' .grad stays untouched.
    (gradient,) = torch.autograd.grad(_target_log_probability(model, repeated, moved).sum(), moved)
    product = (gradient.unflatten(0, (A, -1)).double() * path.difference_BLD.double()).sum(-1)
    return product.sum(0)


@torch.no_grad()
def _log_probability(model: Any, path: _Path, embeddings_BLD: Tensor, config: AttributionConfig) -> Tensor:
    chunks = torch.arange(len(embeddings_BLD), device=embeddings_BLD.device).split(config.rows_per_forward)
    values = [_target_log_probability(model, path.rows(rows), embeddings_BLD[rows]) for rows in chunks]
    return torch.cat(values).double()


def _target_log_probability(model: Any, path: _Path, embeddings_BLD: Tensor) -> Tensor:
    """log p(target tokens | what precedes them), [B], nats."""
    if not path.target_BL.any():
        return embeddings_BLD.sum((1, 2)) * 0
    first = int(path.target_BL.any(0).nonzero()[0])
    kept = embeddings_BLD.shape[1] - first + 1
    logits = model(
        inputs_embeds=embeddings_BLD.to(model.dtype),
        position_ids=path.positions_3BL,
        attention_mask=path.attention_BL,
        use_cache=False,
        logits_to_keep=kept,
    ).logits[:, :-1]
    log_p = logits.float().log_softmax(-1)
    chosen = log_p.gather(-1, path.ids_BL[:, first:, None])[..., 0]
    return (chosen.double() * path.target_BL[:, first:]).sum(-1)


@torch.no_grad()
def _path(model: Any, batch: Mapping[str, Tensor]) -> _Path:
    ids = batch["input_ids"]
    embed = model.get_input_embeddings()
    inputs = embed(ids).float()
    baseline = embed(torch.full_like(ids, _pad_token(model))).float()
    if not baseline.any():
        warnings.warn(
            "the pad token's embedding is zero: no number of points will make the attribution complete; "
            "use a trained model or give the pad token an embedding",
            RuntimeWarning,
            stacklevel=3,
        )
    grid = batch.get("image_grid_thw")
    if grid is not None:
        images = model.model.get_image_features(batch["pixel_values"], grid, return_dict=True).pooler_output
        is_image = (ids == model.config.image_token_id)[..., None]
        _check_image_tokens(int(is_image.sum()), sum(len(image) for image in images))
        means = [image.mean(0, keepdim=True).expand_as(image) for image in images]
        inputs = inputs.masked_scatter(is_image, torch.cat(list(images)).float())
        baseline = baseline.masked_scatter(is_image, torch.cat(means).float())
    # Without explicit positions, embeddings alone would silently get one-dimensional ones.
    positions, _ = model.model.get_rope_index(
        ids,
        batch["mm_token_type_ids"],
        image_grid_thw=grid,
        attention_mask=batch["attention_mask"],
    )
    is_feature = (batch["block_ids"] >= 0)[..., None]
    return _Path(
        inputs,
        (inputs - baseline) * is_feature,
        positions,
        batch["attention_mask"],
        ids,
        batch["target_mask"].bool(),
    )


def _pad_token(model: Any) -> int:
    for config in (model.config.get_text_config(), model.generation_config):
        if isinstance(config.pad_token_id, int):
            return config.pad_token_id
    raise ValueError("the model names no pad token; set `pad_token_id` in its configuration")


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    # One by one: a frozen vision tower may be in eval mode inside a model that trains.
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _check(batch: Mapping[str, Tensor], image_token: int) -> None:
    _check_shapes(batch)
    if ("pixel_values" in batch) != ("image_grid_thw" in batch):
        raise ValueError("pass pixel_values and image_grid_thw together, or neither")
    is_image = batch["input_ids"] == image_token
    if "pixel_values" not in batch:
        _check_image_tokens(int(is_image.sum()), 0)
    if not torch.equal(batch["mm_token_type_ids"].long(), is_image.long()):
        raise ValueError(f"mm_token_type_ids must be 1 at image tokens (id {image_token}) and 0 elsewhere")
    _check_blocks_and_targets(batch["block_ids"], batch["target_mask"].bool(), batch["attention_mask"].bool())


def _check_shapes(batch: Mapping[str, Tensor]) -> None:
    if "input_ids" not in batch:
        raise ValueError("batch has no 'input_ids'; expected a tensor of shape [rows, tokens]")
    shape = batch["input_ids"].shape
    for name in ("attention_mask", "mm_token_type_ids", "target_mask", "block_ids"):
        if name not in batch:
            raise ValueError(f"batch has no {name!r}; expected a tensor of shape {tuple(shape)}")
        if batch[name].shape != shape:
            raise ValueError(
                f"{name} has shape {tuple(batch[name].shape)}, input_ids {tuple(shape)}; expected the same"
            )


def _check_blocks_and_targets(blocks_BL: Tensor, target_BL: Tensor, attended_BL: Tensor) -> None:
    strange = blocks_BL[(blocks_BL < -1) | (blocks_BL >= len(BLOCKS))]
    if len(strange):
        raise ValueError(f"block_ids hold {strange.unique().tolist()}; expected -1 to {len(BLOCKS) - 1}")
    if (target_BL & (blocks_BL >= 0)).any():
        raise ValueError("target_mask overlaps a block; give target tokens the block id -1")
    follows_token = functional.pad(attended_BL[:, :-1], (1, 0))
    if (target_BL & ~(attended_BL & follows_token)).any():
        raise ValueError("target_mask marks padding or a row's first token; mark tokens that follow another one")


def _check_image_tokens(tokens: int, features: int) -> None:
    if tokens != features:
        raise ValueError(
            f"input_ids hold {tokens} image tokens, the images make {features}; pass every row's images, in order"
        )
