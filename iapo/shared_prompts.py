"""Rows of a path that pass the model grouped by prompt: which they are, and how many at a time.

Shapes: B rows, L tokens, S prompts, P prompt tokens, A path points, R points of prompts, G rows of a prompt,
D channels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from iapo.blocks import NO_BLOCK
from iapo.embedding_path import EmbeddingPath


@dataclass(frozen=True, eq=False)
class SharedPrompt:
    """One prompt without its last token, and the rows that continue it."""

    rows: list[int]
    """Of the batch."""
    columns: list[Tensor]
    """Per row where the prompt is: padding may shift it."""
    tails: list[Tensor]
    """Per row the columns from the prompt's last token, which predicts the turn's first, to the last target."""

    @property
    def length(self) -> int:
        """Tokens."""
        return len(self.columns[0])

    def only(self, chosen: Sequence[int]) -> SharedPrompt:
        """With some of its rows, by place."""
        return SharedPrompt(
            [self.rows[i] for i in chosen], [self.columns[i] for i in chosen], [self.tails[i] for i in chosen]
        )


def shared_prompts(path: EmbeddingPath, prompt_rows: Tensor, turn_lengths: Tensor) -> list[SharedPrompt] | None:
    """Group the rows by prompt; None where a turn follows a token that moves along the path.

    Args:
        path: of all rows.
        prompt_rows: [B] rows with the same number have the same prompt.
        turn_lengths: [B] how many attended tokens at a row's end are its turn.
    """
    grouped: dict[int, list[int]] = defaultdict(list)
    for row, prompt in enumerate(prompt_rows.tolist()):
        grouped[prompt].append(row)
    prompts = []
    for rows in grouped.values():
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
    """The columns up to the last target; two where there is none."""
    targets = target_L[tail].nonzero()[:, 0]
    return tail[: int(targets[-1]) + 1 if len(targets) else 2]


class SharedRows(ABC):
    """The rows of a path, grouped by prompt."""

    def __init__(
        self, model: Any, path: EmbeddingPath, prompts: Sequence[SharedPrompt], tokens_per_forward: int
    ) -> None:
        """
        Args:
            model: the model.
            path: of all rows.
            prompts: from :func:`shared_prompts`.
            tokens_per_forward: points × prompts × length in one forward pass.
        """
        self._model, self._path, self._budget = model, path, tokens_per_forward
        # Prompts with as many calls go together, so that few passes carry idle rows.
        self._prompts = sorted(prompts, key=lambda prompt: (len(prompt.rows), prompt.length))

    @property
    @abstractmethod
    def width(self) -> int:
        """Parts of a row that are summed apart: its tokens, or the blocks."""

    @abstractmethod
    def _along(self, prompts: Sequence[SharedPrompt], at: PathPoints) -> tuple[Tensor, Tensor]:
        """:meth:`along` of some prompts, padded to the most rows of one: [R, G] and [R, G, parts]."""

    @abstractmethod
    def _values(self, prompts: Sequence[SharedPrompt], at: PathPoints) -> Tensor:
        """The log-probability alone."""

    def most(self, count: int) -> int:
        """The count itself: a process passes its prompts by itself."""
        return count

    def along(self, alphas: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability of every row's target, and gradient · difference of its parts, at its points.

        Args:
            alphas: [A, B] where on the path, equal for rows of one prompt; nan where a row asks for no such point.

        Returns:
            [A, B] nats and [A, B, parts], float64; zero where no row of the prompt asks, and in rows that never do.
        """
        log_p = torch.zeros(alphas.shape, dtype=torch.float64, device=self._path.ids_BL.device)
        products = torch.zeros(*alphas.shape, self.width, dtype=torch.float64, device=self._path.ids_BL.device)
        for prompts, at in self._chunks(alphas):
            (point, row), found = at.places(prompts)
            values, parts = self._along(prompts, at)
            log_p[point, row], products[point, row] = values[found], parts[found]
        return log_p, products

    @torch.no_grad()
    def log_probability(self, alphas: Tensor) -> Tensor:
        """[A, B] float64, of every row's target at some points of the path."""
        everywhere = alphas[:, None].expand(-1, len(self._path))
        log_p = torch.zeros(everywhere.shape, dtype=torch.float64, device=self._path.ids_BL.device)
        for prompts, at in self._chunks(everywhere):
            (point, row), found = at.places(prompts)
            log_p[point, row] = self._values(prompts, at)[found]
        return log_p

    def _chunks(self, alphas: Tensor) -> Iterator[tuple[list[SharedPrompt], PathPoints]]:
        """Points of prompts that share a forward pass; of a prompt the rows that ask for some point."""
        chunk: list[tuple[SharedPrompt, int, float]] = []
        longest = 0
        asked = alphas.nan_to_num(nan=-1.0)
        asking = (asked >= 0).any(0).tolist()
        for whole in self._prompts:
            chosen = [g for g, row in enumerate(whole.rows) if asking[row]]
            if not chosen:
                continue
            prompt = whole if len(chosen) == len(whole.rows) else whole.only(chosen)
            for point, alpha in enumerate(asked[:, prompt.rows].amax(1).tolist()):
                if alpha < 0:
                    continue
                if chunk and (len(chunk) + 1) * max(longest, prompt.length) > self._budget:
                    yield _together(chunk, self._path.ids_BL.device)
                    chunk, longest = [], 0
                chunk.append((prompt, point, alpha))
                longest = max(longest, prompt.length)
        if chunk:
            yield _together(chunk, self._path.ids_BL.device)


@dataclass(frozen=True)
class PathPoints:
    """Points of some prompts' paths."""

    prompt: Tensor
    """[R] which prompt."""
    alpha: Tensor
    """[R] where on its path, float64."""
    number: list[int]
    """[R] which of the prompt's points this is."""

    def places(
        self, prompts: Sequence[SharedPrompt]
    ) -> tuple[tuple[list[int], list[int]], tuple[list[int], list[int]]]:
        """Of every point and row of its prompt: the point's number and the row; and where it is in [R, G]."""
        found = [
            (self.number[r], row, r, g)
            for r, s in enumerate(self.prompt.tolist())
            for g, row in enumerate(prompts[s].rows)
        ]
        number, row, r, g = (list(each) for each in zip(*found, strict=True))
        return (number, row), (r, g)


def _together(
    chunk: Sequence[tuple[SharedPrompt, int, float]], device: torch.device
) -> tuple[list[SharedPrompt], PathPoints]:
    place: dict[SharedPrompt, int] = {}
    of_prompt = torch.tensor([place.setdefault(prompt, len(place)) for prompt, _, _ in chunk], device=device)
    alpha = torch.tensor([alpha for _, _, alpha in chunk], dtype=torch.float64, device=device)
    return list(place), PathPoints(of_prompt, alpha, [number for _, number, _ in chunk])


class PromptBatch:
    """Some prompts, left-padded."""

    def __init__(self, path: EmbeddingPath, prompts: Sequence[SharedPrompt]) -> None:
        rows = torch.tensor([prompt.rows[0] for prompt in prompts], device=path.ids_BL.device)[:, None]
        columns, self.mask_SP = padded([prompt.columns[0] for prompt in prompts], "left")
        token = self.mask_SP[..., None]
        self._inputs_SPD = path.inputs_BLD[rows, columns] * token
        self.difference_SPD = path.difference_BLD[rows, columns] * token
        self.blocks_SP = path.blocks_BL[rows, columns].where(self.mask_SP == 1, NO_BLOCK)
        self.positions_3SP = path.positions_3BL[:, rows, columns]

    def at(self, points: PathPoints) -> Tensor:
        """The prompts at some points of their paths: [R, P, D]."""
        scale = (1 - points.alpha).to(self._inputs_SPD)[:, None, None]
        return self._inputs_SPD[points.prompt] - scale * self.difference_SPD[points.prompt]


def padded(columns: Sequence[Tensor], side: str) -> tuple[Tensor, Tensor]:
    """Columns of several rows, of unequal number, as one index [rows, most], and 1 where it is not padding."""
    index = pad_sequence(list(columns), batch_first=True, padding_side=side)
    mask = pad_sequence([torch.ones_like(each) for each in columns], batch_first=True, padding_side=side)
    return index, mask
