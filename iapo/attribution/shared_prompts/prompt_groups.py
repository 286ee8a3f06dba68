"""Rows grouped by prompt: which rows share one, and how prompts are batched into forward passes.

A forward pass holds prompts, each at one or more points of its path; their calls follow. The engines that run such a
pass subclass :class:`SharedRows`.

Shapes: B rows, L tokens, S prompts of a pass, P prompt tokens, A path points, R (prompt, point) pairs of a pass, G rows
(calls) of a prompt, D channels, N parts of a row (tokens or blocks).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from iapo.attribution.partition import NO_BLOCK
from iapo.attribution.path import EmbeddingPath
from iapo.models.interfaces import QwenVL


@dataclass(frozen=True, eq=False)
class SharedPrompt:
    """One prompt without its last token, and the rows whose turns continue it."""

    rows: list[int]
    """[G] row numbers in the batch."""
    columns: list[Tensor]
    """[G] of [P]: per row, the columns of the prompt's tokens, which padding may shift from row to row."""
    tails: list[Tensor]
    """[G]: per row, the columns from the prompt's last token, which predicts the turn's first, to the last target."""

    @property
    def length(self) -> int:
        """P, the prompt's tokens without the last one."""
        return len(self.columns[0])

    def only(self, chosen: Sequence[int]) -> SharedPrompt:
        """Keep some of the rows, given by their index in :attr:`rows`."""
        return SharedPrompt(
            [self.rows[i] for i in chosen], [self.columns[i] for i in chosen], [self.tails[i] for i in chosen]
        )


def shared_prompts(path: EmbeddingPath, prompt_rows: Tensor, turn_lengths: Tensor) -> list[SharedPrompt] | None:
    """Group the rows by prompt.

    Args:
        path: of all rows.
        prompt_rows: [B] rows with the same number have the same prompt.
        turn_lengths: [B] how many attended tokens at a row's end are its turn.

    Returns:
        One entry per prompt; None where a prompt's last token or its turn belongs to a block, since what follows the
        shared part must not move along the path.
    """
    rows_of_prompt: dict[int, list[int]] = defaultdict(list)
    for row, prompt in enumerate(prompt_rows.tolist()):
        rows_of_prompt[prompt].append(row)
    prompts = []
    for rows in rows_of_prompt.values():
        attended = [path.attention_BL[row].nonzero()[:, 0] for row in rows]
        lengths = [int(turn_lengths[row]) for row in rows]
        columns = [each[: len(each) - length - 1] for each, length in zip(attended, lengths, strict=True)]
        tails = [
            _until_target(each[len(each) - length - 1 :], path.target_BL[row])
            for row, each, length in zip(rows, attended, lengths, strict=True)
        ]
        if any((path.blocks_BL[row, tail] != NO_BLOCK).any() for row, tail in zip(rows, tails, strict=True)):
            return None
        prompts.append(SharedPrompt(rows, columns, tails))
    return prompts


def _until_target(tail: Tensor, target_L: Tensor) -> Tensor:
    """Cut a tail after its last target; keep two columns where there is no target."""
    targets = target_L[tail].nonzero()[:, 0]
    return tail[: int(targets[-1]) + 1 if len(targets) else 2]


class SharedRows(ABC):
    """The rows of a path, evaluated together with the other rows of their prompt."""

    def __init__(
        self, model: QwenVL, path: EmbeddingPath, prompts: Sequence[SharedPrompt], tokens_per_forward: int
    ) -> None:
        """Hold the rows and how to evaluate them.

        Args:
            model: student or teacher, in eval mode.
            path: of all rows.
            prompts: from :func:`shared_prompts`.
            tokens_per_forward: bound on points × length of the prompts in one forward pass, padding included.
        """
        self._model, self._path, self._budget = model, path, tokens_per_forward
        # Prompts with equally many calls are batched together, so that few rows of a pass are padding.
        self._prompts = sorted(prompts, key=lambda prompt: (len(prompt.rows), prompt.length))

    @property
    @abstractmethod
    def width(self) -> int:
        """N, the parts of a row that are attributed separately: its tokens, or the blocks."""

    @abstractmethod
    def _along(self, prompts: Sequence[SharedPrompt], points: PathPoints) -> tuple[Tensor, Tensor]:
        """Run :meth:`along` for one pass, padded to the most rows of a prompt: [R, G] and [R, G, N]."""

    @abstractmethod
    def _values(self, prompts: Sequence[SharedPrompt], points: PathPoints) -> Tensor:
        """Compute the log-probability alone: [R, G]."""

    def all_reduce_max(self, count: int) -> int:
        """Return the count itself: no pass waits for another process."""
        return count

    def along(self, alphas: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluate every row's target at points of its path.

        Args:
            alphas: [A, B] position on the path, 0 at the baseline and 1 at the input, equal for rows of one prompt;
                nan where a row needs no such point.

        Returns:
            The log-probability [A, B] in nats, and gradient · difference of each part [A, B, N] in nats per unit of
            the path. Both float64; zero at points that no row of the prompt needs, and in rows that need none.
        """
        log_p = torch.zeros(alphas.shape, dtype=torch.float64, device=self._path.ids_BL.device)
        products = torch.zeros(*alphas.shape, self.width, dtype=torch.float64, device=self._path.ids_BL.device)
        for prompts, points in self._passes(alphas):
            (point, row), in_pass = points.places(prompts)
            pass_log_p, pass_products = self._along(prompts, points)
            log_p[point, row], products[point, row] = pass_log_p[in_pass], pass_products[in_pass]
        return log_p, products

    @torch.no_grad()
    def log_probability(self, alphas: Tensor) -> Tensor:
        """Return the log-probability of every row's target at the points ``alphas`` [A]: [A, B] nats, float64."""
        alphas_AB = alphas[:, None].expand(-1, len(self._path))
        log_p = torch.zeros(alphas_AB.shape, dtype=torch.float64, device=self._path.ids_BL.device)
        for prompts, points in self._passes(alphas_AB):
            (point, row), in_pass = points.places(prompts)
            log_p[point, row] = self._values(prompts, points)[in_pass]
        return log_p

    def _passes(self, alphas: Tensor) -> Iterator[tuple[list[SharedPrompt], PathPoints]]:
        """Yield the prompts and points of each forward pass; a prompt keeps only the rows that need some point."""
        chunk: list[tuple[SharedPrompt, int, float]] = []
        longest = 0
        requested = alphas.nan_to_num(nan=-1.0)
        row_requests = (requested >= 0).any(0).tolist()
        for whole in self._prompts:
            chosen = [g for g, row in enumerate(whole.rows) if row_requests[row]]
            if not chosen:
                continue
            prompt = whole if len(chosen) == len(whole.rows) else whole.only(chosen)
            for point, alpha in enumerate(requested[:, prompt.rows].amax(1).tolist()):
                if alpha < 0:
                    continue
                if chunk and (len(chunk) + 1) * max(longest, prompt.length) > self._budget:
                    yield _one_pass(chunk, self._path.ids_BL.device)
                    chunk, longest = [], 0
                chunk.append((prompt, point, alpha))
                longest = max(longest, prompt.length)
        if chunk:
            yield _one_pass(chunk, self._path.ids_BL.device)


@dataclass(frozen=True)
class PathPoints:
    """The (prompt, point) pairs of one forward pass."""

    prompt: Tensor
    """[R] index of the prompt among those of the pass."""
    alpha: Tensor
    """[R] position on the prompt's path, float64."""
    number: list[int]
    """[R] which of the A points this is."""

    def places(
        self, prompts: Sequence[SharedPrompt]
    ) -> tuple[tuple[list[int], list[int]], tuple[list[int], list[int]]]:
        """Match every pair and row of its prompt: its index in [A, B], and its index in [R, G]."""
        indices = [
            (self.number[r], row, r, g)
            for r, s in enumerate(self.prompt.tolist())
            for g, row in enumerate(prompts[s].rows)
        ]
        number, row, r, g = (list(each) for each in zip(*indices, strict=True))
        return (number, row), (r, g)


def _one_pass(
    chunk: Sequence[tuple[SharedPrompt, int, float]], device: torch.device
) -> tuple[list[SharedPrompt], PathPoints]:
    place: dict[SharedPrompt, int] = {}
    of_prompt = torch.tensor([place.setdefault(prompt, len(place)) for prompt, _, _ in chunk], device=device)
    alpha = torch.tensor([alpha for _, _, alpha in chunk], dtype=torch.float64, device=device)
    return list(place), PathPoints(of_prompt, alpha, [number for _, number, _ in chunk])


class PromptBatch:
    """The prompts of one forward pass, left-padded.

    Attributes:
        mask_SP: 1 at tokens, 0 at padding.
        difference_SPD: input minus baseline; zero at padding and at tokens of no block.
        blocks_SP: block of each token, -1 for none.
        positions_3SP: M-RoPE positions.
    """

    def __init__(self, path: EmbeddingPath, prompts: Sequence[SharedPrompt]) -> None:
        """Cut the prompts out of the first of their rows.

        Args:
            path: of all rows.
            prompts: [S] those of the pass.
        """
        rows = torch.tensor([prompt.rows[0] for prompt in prompts], device=path.ids_BL.device)[:, None]
        columns, self.mask_SP = padded([prompt.columns[0] for prompt in prompts], "left")
        is_token = self.mask_SP[..., None]
        self._inputs_SPD = path.inputs_BLD[rows, columns] * is_token
        self.difference_SPD = path.difference_BLD[rows, columns] * is_token
        self.blocks_SP = path.blocks_BL[rows, columns].where(self.mask_SP == 1, NO_BLOCK)
        self.positions_3SP = path.positions_3BL[:, rows, columns]

    def at(self, points: PathPoints) -> Tensor:
        """Return the input embeddings of the prompts at points of their paths: [R, P, D]."""
        scale = (1 - points.alpha).to(self._inputs_SPD)[:, None, None]
        return self._inputs_SPD[points.prompt] - scale * self.difference_SPD[points.prompt]


def padded(columns: Sequence[Tensor], side: str) -> tuple[Tensor, Tensor]:
    """Pad lists of columns of unequal length.

    Args:
        columns: per row, its columns.
        side: ``left`` or ``right``, where padding goes.

    Returns:
        An index into the columns [rows, longest], and a mask of the same shape: 1 at columns, 0 at padding.
    """
    index = pad_sequence(list(columns), batch_first=True, padding_side=side)
    mask = pad_sequence([torch.ones_like(each) for each in columns], batch_first=True, padding_side=side)
    return index, mask
