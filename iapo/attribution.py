"""Attribution of a tool call's log-probability to the blocks of its prompt.

Integrated gradients (Sundararajan et al., arXiv 1703.01365) on the merged input embeddings of Qwen2.5-VL,
from a baseline input to the prompt; template tokens, the call itself and padding stay fixed along the path.
Cheaper or contrasting quantities behind the same call: exact Shapley values over the blocks, and attention
shares.

Shapes: B rows, L tokens, K blocks, A path points.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from itertools import combinations
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from iapo.alignment import BLOCKS
from iapo.block_tangents import has_tangents
from iapo.config import AttributionConfig
from iapo.control_variate import completed, moments
from iapo.embedding_path import EmbeddingPath, check_image_tokens, embedding_path, target_log_probability
from iapo.precision import full_precision, lowered
from iapo.quadrature import nodes, points_between, stretch_errors
from iapo.sharding import gathered_decoder, is_sharded
from iapo.shared_blocks import SharedBlocks
from iapo.shared_prefix import SharedTokens
from iapo.shared_prompts import SharedRows, shared_prompts
from iapo.types import BlockAttribution

_LEAST_DELTA = 0.5
"""Smallest denominator of the completeness residual, nats."""

_Job = TypeVar("_Job")

Agree = Callable[[int], int]
"""Count → the largest such count of all processes."""


def attribute(
    model: Any,
    batch: Mapping[str, Tensor],
    *,
    config: AttributionConfig,
    differentiable: bool = False,
    agree: Agree | None = None,
) -> BlockAttribution:
    """Attribute each row's target tokens to the blocks of its prompt.

    Works inside the caller's ``torch.no_grad()`` and autocast, and with left or right padding.

    Args:
        model: a ``Qwen2_5_VLForConditionalGeneration``; the modes of its modules and its parameters' ``.grad``
            are left as they were. The path is fp32 whatever the weights are.
        batch: ``input_ids, attention_mask, mm_token_type_ids`` [B, L]; ``pixel_values`` and
            ``image_grid_thw`` of all images, or absent; ``image_rows`` [images shown], which image each row
            shows, in row order (absent: every image once, in order); ``target_mask`` bool [B, L], the
            tokens whose log-probability is attributed, in one span or several; ``prompt_rows`` [B], equal for
            rows with the same prompt, ``image_counts`` [B], images that each row shows, and ``turn_lengths`` [B],
            tokens that follow it (absent: nothing is shared); ``block_ids`` int [B, L],
            0 P, 1 R, 2 I, 3 T or those of a finer partition, -1 none (template, target, padding).
        config: what is computed, how exactly, and how many tokens one forward pass holds.
        differentiable: keep the graph, so that the sums can be part of a loss; no row is refined.
        agree: the largest of a count over all processes. Needed where parameters are sharded (FSDP, ZeRO-3): every
            process must come here, and run the same number of forward passes where each of them gathers weights.

    Returns:
        Block sums in nats, float64, on the model's device. A row without target tokens is all zeros, its
        residual too. ``l1`` may be nan where ``config.magnitudes`` does not ask for it.

    Raises:
        ValueError: for inputs that do not fit together, or a model without a pad token.
    """
    batch = {name: tensor.to(model.device) for name, tensor in batch.items() if tensor is not None}
    _check(batch, model.config.image_token_id)
    blocks = max(len(BLOCKS), int(batch["block_ids"].max()) + 1)
    with _evaluating(model):
        path = embedding_path(model, batch, config.baseline)
        if config.method == "shapley":
            return _shapley(model, path, config, agree)
        if config.method == "attention":
            return _attention(model, path, config, blocks)
        per_block = not config.magnitudes and blocks == len(BLOCKS)
        rows = _rows(model, path, batch, config, differentiable, agree, per_block=per_block)
        with _weights_at_hand(model, rows):
            # What the blocks are made to add up to, so in full precision under autocast too.
            with full_precision(model.device, tensor_cores=isinstance(rows, SharedBlocks)):
                ends = rows.log_probability(torch.tensor([0.0, 1.0]))
            log_p, delta = ends[1], ends[1] - ends[0]
            found, residual = _integrate(rows, ends, config, refine=not differentiable)
        # Not in a loss: the known sum carries no gradient.
        sums = completed(found, delta) if config.control_variate and not differentiable else found[0]
    if isinstance(rows, SharedBlocks):
        return BlockAttribution(sums, torch.full_like(sums, torch.nan), residual, delta, log_p)
    # Row 0 of the shifted one-hot is "no block".
    members = functional.one_hot(path.blocks_BL + 1, blocks + 1)[..., 1:].double()
    return BlockAttribution(
        signed=torch.einsum("bl,blk->bk", sums, members),
        l1=torch.einsum("bl,blk->bk", sums.abs(), members),
        residual=residual,
        delta_f=delta,
        log_p=log_p,
    )


def _rows(
    model: Any,
    path: EmbeddingPath,
    batch: Mapping[str, Tensor],
    config: AttributionConfig,
    differentiable: bool,
    agree: Agree | None,
    *,
    per_block: bool,
) -> SeparateRows | SharedRows:
    """How the rows pass the model: prompts shared where the batch says which, and nothing forbids it."""
    by_tangents = per_block and has_tangents(model)
    # Passes that share prompts differ in number between processes: not where each of them gathers weights again.
    allowed = agree is None or (by_tangents and is_sharded(model))
    prompts = None
    if "prompt_rows" in batch and not differentiable and allowed:
        prompts = shared_prompts(path, batch["prompt_rows"], batch["turn_lengths"])
    if (agree or int)(int(prompts is None)):
        return SeparateRows(model, path, config, differentiable, agree)
    assert prompts is not None
    shared = SharedBlocks if by_tangents else SharedTokens
    return shared(model, path, prompts, config.tokens_per_forward)


@contextmanager
def _weights_at_hand(model: Any, rows: SeparateRows | SharedRows) -> Iterator[None]:
    """Tangents read the layers' weights and not their modules: all of them are gathered once, products lowered here."""
    if isinstance(rows, SharedBlocks):
        with gathered_decoder(model), lowered(model):
            yield
    else:
        yield


def _integrate(
    rows: SeparateRows | SharedRows, ends: Tensor, config: AttributionConfig, *, refine: bool
) -> tuple[Tensor, Tensor]:
    """Moments of tokens [2, B, L] or blocks [2, B, K], and residuals [B], after more points where they are missed.

    Args:
        rows: what is integrated.
        ends: [2, B] log-probability at the path's start and end.
        config: the points.
        refine: whether points may be added.
    """
    delta = ends[1] - ends[0]
    places, weights = nodes(config.points, config.quadrature, delta.device)
    log_p, products = rows.along(places[:, None].expand(-1, len(delta)))
    found = moments(products, weights)
    if refine:
        added, kept, gained = _more_points(config, torch.cat([ends[:1], log_p, ends[1:]]), products.sum(-1), weights)
        if rows.most(int((~added.isnan()).sum())):
            if added.isnan().all():
                # A process that misses nothing keeps step with the others.
                added[0, 0] = 0.5
            found = moments(products, kept) + moments(rows.along(added)[1], gained)
    return found, _residual(found[0].detach(), delta)


def _more_points(
    config: AttributionConfig, log_p: Tensor, slopes: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Where rows are looked at once more, and the weights of old and new points, as of :func:`points_between`.

    Args:
        config: the points, and what may be missed.
        log_p: [A + 2, B] at the path's start, at the points and at its end.
        slopes: [A, B] its derivative at the points.
        weights: [A] of the points.
    """
    delta = log_p[-1] - log_p[0]
    if config.quadrature != "gauss_legendre":
        wanted = stretch_errors(log_p, slopes, weights) > config.tolerance * delta.abs().clamp(min=_LEAST_DELTA)
        return points_between(wanted, weights)
    missed = _residual((weights[:, None] * slopes).sum(0)[:, None], delta) > config.tolerance
    places, gained = nodes(3 * config.points, config.quadrature, delta.device)
    return places[:, None].where(missed, torch.nan), weights[:, None] * ~missed, gained[:, None] * missed


def _residual(sums: Tensor, delta: Tensor) -> Tensor:
    return (sums.sum(1) - delta).abs() / delta.abs().clamp(min=_LEAST_DELTA)


class SeparateRows:
    """Every row on its own: whatever its prompt, with a graph where asked for, in step with other processes."""

    def __init__(
        self,
        model: Any,
        path: EmbeddingPath,
        config: AttributionConfig,
        differentiable: bool = False,
        agree: Agree | None = None,
    ) -> None:
        self._model, self._path, self._config = model, path, config
        self._differentiable, self._agree = differentiable, agree

    def most(self, count: int) -> int:
        """The largest such count of all processes, which must run as many passes as each other."""
        return count if self._agree is None else self._agree(count)

    def along(self, alphas: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability of every row's target, and gradient · difference of its tokens, at its own points.

        Args:
            alphas: [A, B] where on the path; nan where a row has no such point.

        Returns:
            [A, B] nats and [A, B, L], float64; zero where there is no point.
        """
        path = self._path
        log_p = torch.zeros(alphas.shape, dtype=torch.float64, device=path.ids_BL.device)
        products = torch.zeros(*alphas.shape, path.ids_BL.shape[1], dtype=torch.float64, device=path.ids_BL.device)
        point, row = (~alphas.isnan()).nonzero(as_tuple=True)
        with torch.enable_grad():
            for some, counts in _in_step(self.chunks(row), self.most):
                rows = path.rows(row[some])
                value, part = self._gradient_dot_difference(rows, alphas[point[some], row[some]])
                if counts:
                    place = (point[some], row[some])
                    log_p = log_p.index_put(place, value.detach())
                    products = products.index_put(place, functional.pad(part, path.margins(row[some])))
        return log_p, products

    def log_probability(self, alphas: Tensor) -> Tensor:
        """[A, B] float64, of every row's target at some points of the path."""
        path = self._path
        return torch.stack(
            [self.log_probability_at(path.inputs_BLD - (1 - alpha) * path.difference_BLD) for alpha in alphas.tolist()]
        )

    @torch.no_grad()
    def log_probability_at(self, embeddings_BLD: Tensor) -> Tensor:
        """[B] float64, of every row's target on these embeddings."""
        path = self._path
        values = torch.zeros(len(path), dtype=torch.float64, device=path.ids_BL.device)
        for rows, counts in _in_step(self.chunks(torch.arange(len(path), device=values.device)), self.most):
            log_p = target_log_probability(self._model, path.rows(rows), embeddings_BLD[rows, slice(*path.span(rows))])
            if counts:
                values[rows] = log_p
        return values

    def _gradient_dot_difference(self, path: EmbeddingPath, alphas_B: Tensor) -> tuple[Tensor, Tensor]:
        scale = (1 - alphas_B).to(path.inputs_BLD)[:, None, None]
        moved = (path.inputs_BLD - scale * path.difference_BLD).requires_grad_(True)
        # The fused kernels have no second derivative.
        with sdpa_kernel(SDPBackend.MATH) if self._differentiable else nullcontext():
            log_p = target_log_probability(self._model, path, moved)
            # Gradients at the embeddings alone: parameters' .grad stays untouched.
            (gradient,) = torch.autograd.grad(log_p.sum(), moved, create_graph=self._differentiable)
        return log_p, (gradient.double() * path.difference_BLD.double()).sum(-1)

    def chunks(self, rows: Tensor) -> list[Tensor]:
        """Which of these rows (one may come several times) share forward passes, by place; shortest first."""
        budget, lengths = self._config.tokens_per_forward, self._path.attention_BL.sum(1)[rows]
        order = lengths.argsort(stable=True)
        chunks: list[Tensor] = []
        start = 0
        while start < len(order):
            stop = start + 1
            while stop < len(order) and (stop + 1 - start) * int(lengths[order[stop]]) <= budget:
                stop += 1
            chunks.append(order[start:stop])
            start = stop
        return chunks


def _in_step(jobs: Sequence[_Job], agree: Agree) -> Iterator[tuple[_Job, bool]]:
    """The jobs; where another process has more of them, the last one again, which does not count."""
    # Counted first: a process that is through with its jobs must not ask while another is in a forward pass.
    most = agree(len(jobs))
    for job in jobs:
        yield job, True
    for _ in range(most - len(jobs)):
        yield jobs[-1], False


@torch.no_grad()
def _shapley(model: Any, path: EmbeddingPath, config: AttributionConfig, agree: Agree | None) -> BlockAttribution:
    """Exact Shapley values of the four blocks, by one forward pass per set of blocks and no backward pass."""
    rows = SeparateRows(model, path, config, agree=agree)
    players = range(len(BLOCKS))
    value: dict[frozenset[int], Tensor] = {}
    for size in range(len(players) + 1):
        for present in map(frozenset, combinations(players, size)):
            absent = torch.tensor([k not in present for k in players] + [False], device=path.ids_BL.device)
            # Block -1, no block, reads the last entry.
            away = absent[path.blocks_BL][..., None]
            embeddings = path.inputs_BLD - path.difference_BLD * away
            value[present] = rows.log_probability_at(embeddings)
    shares = []
    for k in players:
        gains = [
            (value[others | {k}] - value[others]) / (len(players) * math.comb(len(players) - 1, len(others)))
            for others in value
            if k not in others
        ]
        shares.append(torch.stack(gains).sum(0))
    signed = torch.stack(shares, -1)
    delta = value[frozenset(players)] - value[frozenset()]
    return BlockAttribution(
        signed=signed,
        l1=signed.abs(),
        residual=_residual(signed, delta),
        delta_f=delta,
        log_p=value[frozenset(players)],
    )


@torch.no_grad()
def _attention(model: Any, path: EmbeddingPath, config: AttributionConfig, blocks: int) -> BlockAttribution:
    """Attention that the positions which predict the target pay to each block, over all layers and heads.

    No attribution at all: a control that is as cheap as one forward pass. Shares, not nats.
    """
    signed = torch.zeros(len(path), blocks, dtype=torch.float64, device=path.ids_BL.device)
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        for rows in SeparateRows(model, path, config).chunks(torch.arange(len(path), device=signed.device)):
            some = path.rows(rows)
            output = model(
                inputs_embeds=some.inputs_BLD.to(model.dtype),
                position_ids=some.positions_3BL,
                attention_mask=some.attention_BL,
                use_cache=False,
                output_attentions=True,
            )
            paid_BLL = torch.stack(output.attentions).double().mean((0, 2))
            # A token is predicted at the position before it.
            asked_BL = functional.pad(some.target_BL[:, 1:], (0, 1)).double()
            members = functional.one_hot(some.blocks_BL + 1, blocks + 1)[..., 1:].double()
            signed[rows] = torch.einsum("bq,bql,blk->bk", asked_BL, paid_BLL, members)
    finally:
        model.set_attn_implementation(before)
    nothing = torch.zeros(len(path), dtype=torch.float64, device=signed.device)
    return BlockAttribution(signed=signed, l1=signed, residual=nothing, delta_f=nothing, log_p=nothing)


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
    strange = blocks_BL[blocks_BL < -1]
    if len(strange):
        raise ValueError(f"block_ids hold {strange.unique().tolist()}; expected -1 (no block) or more")
    if (target_BL & (blocks_BL >= 0)).any():
        raise ValueError("target_mask overlaps a block; give target tokens the block id -1")
    follows_token = functional.pad(attended_BL[:, :-1], (1, 0))
    if (target_BL & ~(attended_BL & follows_token)).any():
        raise ValueError("target_mask marks padding or a row's first token; mark tokens that follow another one")
