"""Attribution of a tool call's log-probability to the blocks of its prompt.

Integrated gradients (Sundararajan et al., arXiv 1703.01365) on the merged input embeddings of Qwen2.5-VL,
from a baseline input to the prompt; template tokens, the call itself and padding stay fixed along the path.
The same function also computes two quantities for comparison: exact Shapley values over the blocks, and the
share of attention that each block receives.

Shapes: B rows (one prompt and call each), L tokens, K blocks, A path points.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional

from iapo.attribution.attention import attention_shares
from iapo.attribution.control_variate import apply_control_variate, moments
from iapo.attribution.path import EmbeddingPath, check_image_tokens, embedding_path
from iapo.attribution.quadrature import MIN_DELTA, completeness_error, nodes, points_between, stretch_errors
from iapo.attribution.rows import AllReduceMax, SeparateRows
from iapo.attribution.shapley import shapley_values
from iapo.attribution.shared_prompts.forward_engine import SharedBlocks
from iapo.attribution.shared_prompts.forward_mode import has_tangents
from iapo.attribution.shared_prompts.prompt_groups import SharedRows, shared_prompts
from iapo.attribution.shared_prompts.reverse_engine import SharedTokens
from iapo.config.schema import AttributionConfig
from iapo.models.fsdp import gathered_decoder, is_sharded
from iapo.models.interfaces import QwenVL
from iapo.models.precision import full_precision, lowered
from iapo.types import BLOCKS, BlockAttribution


def attribute(
    model: QwenVL,
    batch: Mapping[str, Tensor],
    *,
    config: AttributionConfig,
    differentiable: bool = False,
    all_reduce_max: AllReduceMax | None = None,
) -> BlockAttribution:
    """Attribute the log-probability of each row's target tokens to the blocks of its prompt.

    Works inside the caller's ``torch.no_grad()`` and autocast, and with left or right padding.

    Args:
        model: student or teacher. The train/eval mode of its modules and the ``.grad`` of its parameters are left
            as they were. The path's embeddings are fp32 whatever the dtype of the weights.
        batch: what :func:`iapo.attribution.batch.calls_batch` returns.
            Required, all [B, L]: ``input_ids``, ``attention_mask``, ``mm_token_type_ids`` (1 at image tokens),
            ``target_mask`` bool (the tokens whose log-probability is attributed, in one span or several) and
            ``block_ids`` int (0 P, 1 R, 2 I, 3 T or those of a finer partition, -1 none: template, target, padding).
            Optional: ``pixel_values`` and ``image_grid_thw`` of all images, together;
            ``image_rows`` [images shown], the index of each image that the rows show, in row order (absent: every
            image once, in order);
            ``prompt_rows`` [B], equal for rows with the same prompt, ``image_counts`` [B], how many images each
            row shows, and ``turn_lengths`` [B], how many tokens follow the prompt (absent: rows share no
            computation).
        config: the method, its precision, and how many tokens one forward pass holds.
        differentiable: keep the autograd graph, so that the sums can be part of a loss. Rows are then not refined
            and the control variate is not applied.
        all_reduce_max: returns the maximum of a count over all processes. Required where parameters are sharded
            (FSDP, ZeRO-3): every process must then call this function, and all must run the same number of forward
            passes, since each pass gathers weights.

    Returns:
        Block sums in nats, float64, on the model's device. A row without target tokens is all zeros, its
        ``convergence_delta`` too. ``l1`` may be nan where ``config.magnitudes`` is off.

    Raises:
        ValueError: for inputs that do not fit together, or a model without a pad token.
    """
    batch = {name: tensor.to(model.device) for name, tensor in batch.items() if tensor is not None}
    _check(batch, model.config.image_token_id)
    blocks = max(len(BLOCKS), int(batch["block_ids"].max()) + 1)
    with _eval_mode(model):
        path = embedding_path(model, batch, config.baseline)
        if config.method == "shapley":
            return shapley_values(model, path, config, all_reduce_max)
        if config.method == "attention":
            return attention_shares(model, path, config, blocks, all_reduce_max)
        per_block = not config.magnitudes and blocks == len(BLOCKS)
        rows = _rows(model, path, batch, config, differentiable, all_reduce_max, per_block=per_block)
        with _weights_gathered(model, rows):
            # In full precision even under autocast: the attributions are corrected to add up to this difference.
            with full_precision(model.device, tensor_cores=isinstance(rows, SharedBlocks)):
                ends = rows.log_probability(torch.tensor([0.0, 1.0]))
            log_p, delta = ends[1], ends[1] - ends[0]
            integrals, convergence_delta = _integrate(rows, ends, config, refine=not differentiable)
        # No control variate in a loss: the endpoint difference carries no gradient.
        correct = config.control_variate and not differentiable
        sums = apply_control_variate(integrals, delta) if correct else integrals[0]
    if isinstance(rows, SharedBlocks):
        return BlockAttribution(sums, torch.full_like(sums, torch.nan), convergence_delta, delta, log_p)
    # Block id -1 (no block) becomes column 0 of the one-hot, which is dropped.
    membership = functional.one_hot(path.blocks_BL + 1, blocks + 1)[..., 1:].double()
    return BlockAttribution(
        signed=torch.einsum("bl,blk->bk", sums, membership),
        l1=torch.einsum("bl,blk->bk", sums.abs(), membership),
        convergence_delta=convergence_delta,
        delta_f=delta,
        log_p=log_p,
    )


def _rows(
    model: QwenVL,
    path: EmbeddingPath,
    batch: Mapping[str, Tensor],
    config: AttributionConfig,
    differentiable: bool,
    all_reduce_max: AllReduceMax | None,
    *,
    per_block: bool,
) -> SeparateRows | SharedRows:
    """Choose the engine: prompts are shared between rows where the batch says which and nothing forbids it."""
    by_tangents = per_block and has_tangents(model)
    # With shared prompts, processes run different numbers of forward passes. That deadlocks where every pass gathers
    # sharded weights; the tangent engine gathers them once, up front.
    allowed = all_reduce_max is None or (by_tangents and is_sharded(model))
    prompts = None
    if "prompt_rows" in batch and not differentiable and allowed:
        prompts = shared_prompts(path, batch["prompt_rows"], batch["turn_lengths"])
    # If one process cannot share prompts, none does.
    if (all_reduce_max or int)(int(prompts is None)):
        return SeparateRows(model, path, config, differentiable, all_reduce_max)
    assert prompts is not None
    engine = SharedBlocks if by_tangents else SharedTokens
    return engine(model, path, prompts, config.tokens_per_forward)


@contextmanager
def _weights_gathered(model: QwenVL, rows: SeparateRows | SharedRows) -> Iterator[None]:
    """Gather sharded weights and enter autocast for the tangent engine; do nothing for the others.

    That engine reads the layers' weights directly and never calls the layers, so FSDP's hooks do not run for it.
    """
    if isinstance(rows, SharedBlocks):
        with gathered_decoder(model), lowered(model):
            yield
    else:
        yield


def _integrate(
    rows: SeparateRows | SharedRows, ends: Tensor, config: AttributionConfig, *, refine: bool
) -> tuple[Tensor, Tensor]:
    """Integrate along the path, and add points to the rows whose first estimate misses too much.

    Args:
        rows: the engine that evaluates the rows.
        ends: [2, B] log-probability at the path's start and end, nats.
        config: number of points, quadrature and tolerance.
        refine: whether points may be added.

    Returns:
        The :func:`moments` of tokens [2, B, L] or blocks [2, B, K], and the convergence deltas [B].
    """
    delta = ends[1] - ends[0]
    alphas, weights = nodes(config.n_steps, config.quadrature, delta.device)
    log_p, products = rows.along(alphas[:, None].expand(-1, len(delta)))
    integrals = moments(products, weights)
    if refine:
        added, old_weights, new_weights = _more_points(
            config, torch.cat([ends[:1], log_p, ends[1:]]), products.sum(-1), weights
        )
        if rows.all_reduce_max(int((~added.isnan()).sum())):
            if added.isnan().all():
                # This process needs no point, but others do: evaluate one, with weight zero, to stay in step.
                added[0, 0] = 0.5
            integrals = moments(products, old_weights) + moments(rows.along(added)[1], new_weights)
    return integrals, completeness_error(integrals[0].detach(), delta)


def _more_points(
    config: AttributionConfig, log_p: Tensor, slopes: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Choose the points to add, and the weights of old and new points.

    Args:
        config: number of points, quadrature and tolerance.
        log_p: [A + 2, B] log-probability at the path's start, at the points and at its end, nats.
        slopes: [A, B] its derivative along the path at the points.
        weights: [A] quadrature weights of the points.

    Returns:
        Where the new points are, nan where a row needs none; the old points' weights; the new points' weights. All
        as :func:`points_between` returns them. Gauss–Legendre rules do not nest, so a row that misses too much is
        evaluated again at three times as many points and its old points get weight 0.
    """
    delta = log_p[-1] - log_p[0]
    if config.quadrature != "gauss_legendre":
        wanted = stretch_errors(log_p, slopes, weights) > config.tolerance * delta.abs().clamp(min=MIN_DELTA)
        return points_between(wanted, weights)
    missed = completeness_error((weights[:, None] * slopes).sum(0)[:, None], delta) > config.tolerance
    alphas, new_weights = nodes(3 * config.n_steps, config.quadrature, delta.device)
    return alphas[:, None].where(missed, torch.nan), weights[:, None] * ~missed, new_weights[:, None] * missed


@contextmanager
def _eval_mode(model: QwenVL) -> Iterator[None]:
    # Restored module by module: a frozen vision tower may be in eval mode inside a model in training mode.
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
        check_image_tokens(int(is_image.sum()), 0)
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
    invalid = blocks_BL[blocks_BL < -1]
    if len(invalid):
        raise ValueError(f"block_ids hold {invalid.unique().tolist()}; expected -1 (no block) or more")
    if (target_BL & (blocks_BL >= 0)).any():
        raise ValueError("target_mask overlaps a block; give target tokens the block id -1")
    has_predecessor = functional.pad(attended_BL[:, :-1], (1, 0))
    if (target_BL & ~(attended_BL & has_predecessor)).any():
        raise ValueError("target_mask marks padding or a row's first token; mark tokens that follow another one")
