"""The row-by-row engine of integrated gradients: every prompt and call passes the model as one sequence.

It works for every row, keeps an autograd graph where a loss needs one, and keeps processes with sharded weights in
step. The engines in :mod:`iapo.attribution.shared_prompts` compute the same numbers faster for calls that share a
prompt, but do none of this.

Shapes: B rows, L tokens, D channels, A path points.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from iapo.attribution.path import EmbeddingPath, target_log_probability
from iapo.config.schema import AttributionConfig
from iapo.models.interfaces import QwenVL

_Chunk = TypeVar("_Chunk")


AllReduceMax = Callable[[int], int]
"""This process's count → the maximum over all processes."""


class SeparateRows:
    """The rows of a path, evaluated independently of each other, whatever their prompts."""

    def __init__(
        self,
        model: QwenVL,
        path: EmbeddingPath,
        config: AttributionConfig,
        differentiable: bool = False,
        all_reduce_max: AllReduceMax | None = None,
    ) -> None:
        """Hold the rows and how to evaluate them.

        Args:
            model: student or teacher, in eval mode.
            path: of all rows.
            config: ``tokens_per_forward``.
            differentiable: keep the graph of the gradients, for a loss.
            all_reduce_max: None where processes need not run the same number of forward passes.
        """
        self._model, self._path, self._config = model, path, config
        self._differentiable, self._all_reduce_max = differentiable, all_reduce_max

    def all_reduce_max(self, count: int) -> int:
        """Return the maximum of a count over all processes; the count itself where there is nobody to ask."""
        return count if self._all_reduce_max is None else self._all_reduce_max(count)

    def along(self, alphas: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluate every row's target at the row's own points of the path.

        Args:
            alphas: [A, B] position on the path, 0 at the baseline and 1 at the input; nan where a row has no such
                point.

        Returns:
            The log-probability [A, B] in nats, and gradient · difference of each token [A, B, L] in nats per unit of
            the path. Both float64, zero where there is no point.
        """
        path = self._path
        log_p = torch.zeros(alphas.shape, dtype=torch.float64, device=path.ids_BL.device)
        products = torch.zeros(*alphas.shape, path.ids_BL.shape[1], dtype=torch.float64, device=path.ids_BL.device)
        point, row = (~alphas.isnan()).nonzero(as_tuple=True)
        with torch.enable_grad():
            for chunk, counts in in_step(self.chunks(row), self.all_reduce_max):
                rows = path.rows(row[chunk])
                chunk_log_p, chunk_products = self._gradient_dot_difference(rows, alphas[point[chunk], row[chunk]])
                if counts:
                    place = (point[chunk], row[chunk])
                    log_p = log_p.index_put(place, chunk_log_p.detach())
                    products = products.index_put(place, functional.pad(chunk_products, path.margins(row[chunk])))
        return log_p, products

    def log_probability(self, alphas: Tensor) -> Tensor:
        """Return the log-probability of every row's target at the points ``alphas`` [A]: [A, B] nats, float64."""
        path = self._path
        return torch.stack(
            [self.log_probability_at(path.inputs_BLD - (1 - alpha) * path.difference_BLD) for alpha in alphas.tolist()]
        )

    @torch.no_grad()
    def log_probability_at(self, embeddings_BLD: Tensor) -> Tensor:
        """Return the log-probability of every row's target on the given input embeddings: [B] nats, float64."""
        path = self._path
        values = torch.zeros(len(path), dtype=torch.float64, device=path.ids_BL.device)
        for rows, counts in in_step(self.chunks(torch.arange(len(path), device=values.device)), self.all_reduce_max):
            log_p = target_log_probability(self._model, path.rows(rows), embeddings_BLD[rows, slice(*path.span(rows))])
            if counts:
                values[rows] = log_p
        return values

    def _gradient_dot_difference(self, path: EmbeddingPath, alphas_B: Tensor) -> tuple[Tensor, Tensor]:
        scale = (1 - alphas_B).to(path.inputs_BLD)[:, None, None]
        moved = (path.inputs_BLD - scale * path.difference_BLD).requires_grad_(True)
        # Fused attention kernels have no second derivative, which a loss on gradients needs.
        with sdpa_kernel(SDPBackend.MATH) if self._differentiable else nullcontext():
            log_p = target_log_probability(self._model, path, moved)
            # With respect to the embeddings alone, so that the parameters' .grad stays untouched.
            (gradient,) = torch.autograd.grad(log_p.sum(), moved, create_graph=self._differentiable)
        return log_p, (gradient.double() * path.difference_BLD.double()).sum(-1)

    def chunks(self, rows: Tensor) -> list[Tensor]:
        """Split rows into forward passes that hold ``tokens_per_forward`` tokens with padding, shortest rows first.

        Args:
            rows: [N] row numbers; a row may occur several times.

        Returns:
            Indices into ``rows``, one tensor per forward pass. A row longer than the budget has a pass of its own.
        """
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


def in_step(chunks: Sequence[_Chunk], all_reduce_max: AllReduceMax) -> Iterator[tuple[_Chunk, bool]]:
    """Yield the chunks and True; then the last one and False until all processes have run equally many passes."""
    # The maximum is taken before the first pass: a collective call here must not meet another process's forward pass.
    max_chunks = all_reduce_max(len(chunks))
    for chunk in chunks:
        yield chunk, True
    for _ in range(max_chunks - len(chunks)):
        yield chunks[-1], False
