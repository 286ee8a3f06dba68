"""Integrated gradients of a tool call's log-probability, summed per prompt block.

Sundararajan et al. (arXiv 1703.01365) on the merged input embeddings of Qwen2.5-VL, from a baseline input
(pad embedding for text, the image's mean token for image tokens) to the prompt. Template tokens, the call
itself and padding stay fixed along the path. The zero embedding is no baseline here: RMSNorm makes the
path scale-free near zero, and completeness fails whatever the quadrature.

Shapes: B rows, L tokens, D channels, K = 4 blocks, A path points.
"""

from __future__ import annotations

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

    Args:
        model: a ``Qwen2_5_VLForConditionalGeneration``; its mode and its parameters' ``.grad`` are left
            as they were.
        batch: ``input_ids, attention_mask, mm_token_type_ids`` [B, L]; ``pixel_values`` and
            ``image_grid_thw`` of all images in row order, or absent; ``target_mask`` bool [B, L], the
            tokens whose log-probability is attributed; ``block_ids`` int [B, L], 0 P, 1 R, 2 I, 3 T, -1 none.
        config: points, tolerance, baseline.

    Returns:
        Block sums in nats, float64, on the model's device. A row without target tokens is all zeros.

    Raises:
        ValueError: for inputs that do not fit together.
    """
    _check(batch)
    with _evaluating(model), torch.enable_grad():
        path = _path(model, batch)
        delta = _log_probability(model, path, path.inputs_BLD) - _log_probability(
            model, path, path.inputs_BLD - path.difference_BLD
        )
        tokens_BL, residual = _integrate(model, path, delta, config)
    members = functional.one_hot(batch["block_ids"].clamp(min=0), len(BLOCKS)).double()
    members = members * (batch["block_ids"] >= 0)[..., None]
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
    for rows in torch.arange(B).split(max(1, config.rows_per_forward)):
        some = path.rows(rows.to(path.inputs_BLD.device))
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
def _log_probability(model: Any, path: _Path, embeddings_BLD: Tensor) -> Tensor:
    return _target_log_probability(model, path, embeddings_BLD).double()


def _target_log_probability(model: Any, path: _Path, embeddings_BLD: Tensor) -> Tensor:
    """log p(target tokens | what precedes them), [B], nats."""
    if not path.target_BL.any():
        return embeddings_BLD.sum((1, 2)) * 0
    first = int(path.target_BL.any(0).nonzero()[0])
    kept = embeddings_BLD.shape[1] - first + 1
    logits = model(
        inputs_embeds=embeddings_BLD,
        position_ids=path.positions_3BL,
        attention_mask=path.attention_BL,
        use_cache=False,
        logits_to_keep=kept,
    ).logits[:, :-1]
    log_p = logits.float().log_softmax(-1)
    chosen = log_p.gather(-1, path.ids_BL[:, first:, None])[..., 0]
    return (chosen * path.target_BL[:, first:]).sum(-1)


@torch.no_grad()
def _path(model: Any, batch: Mapping[str, Tensor]) -> _Path:
    ids = batch["input_ids"]
    embed = model.get_input_embeddings()
    inputs = embed(ids).float()
    baseline = embed(torch.full_like(ids, _pad_token(model))).float()
    grid = batch.get("image_grid_thw")
    if batch.get("pixel_values") is not None:
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
        batch["target_mask"],
    )


def _pad_token(model: Any) -> int:
    for config in (model.config.get_text_config(), model.generation_config):
        if isinstance(config.pad_token_id, int):
            return config.pad_token_id
    raise ValueError("the model names no pad token; set `pad_token_id` in its configuration")


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _check(batch: Mapping[str, Tensor]) -> None:
    shape = batch["input_ids"].shape
    for name in ("attention_mask", "mm_token_type_ids", "target_mask", "block_ids"):
        if name not in batch:
            raise ValueError(f"batch has no {name!r}; expected a tensor of shape {tuple(shape)}")
        if batch[name].shape != shape:
            raise ValueError(
                f"{name} has shape {tuple(batch[name].shape)}, input_ids {tuple(shape)}; expected the same"
            )
    if (batch.get("pixel_values") is None) != (batch.get("image_grid_thw") is None):
        raise ValueError("pass pixel_values and image_grid_thw together, or neither")


def _check_image_tokens(tokens: int, features: int) -> None:
    if tokens != features:
        raise ValueError(
            f"input_ids hold {tokens} image tokens, the images make {features}; pass every row's images, in order"
        )
