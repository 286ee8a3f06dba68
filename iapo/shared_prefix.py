"""Attribution of several calls on the same prompt, whose prompt passes the model once per path point.

The prompt's keys and values are kept as a cache with its graph, and every call goes on from there. That saves
the repeated prompt in the forward pass and, in the backward pass, all that only the prompt's own last layer
needs. The same numbers as row by row, to rounding.

Shapes: S prompts, P prompt tokens, C call tokens, A path points, D channels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache

from iapo.blocks import NO_BLOCK
from iapo.embedding_path import EmbeddingPath


@dataclass(frozen=True)
class _Prompt:
    """One prompt without its last token, and the rows that continue it."""

    rows: list[int]
    """Of the batch."""
    columns: list[Tensor]
    """Per row where the prompt is: padding may shift it."""
    tails: list[Tensor]
    """Per row the columns of the prompt's last token and the turn; the first predicts the turn's first token."""

    @property
    def length(self) -> int:
        """Tokens."""
        return len(self.columns[0])


class SharedPrefixes:
    """The rows of a path, grouped by prompt."""

    def __init__(self, model: Any, path: EmbeddingPath, prompts: Sequence[_Prompt], tokens_per_forward: int) -> None:
        self._model, self._path, self._budget = model, path, tokens_per_forward
        # Prompts with as many calls go together, so that few backward passes carry idle rows.
        self._prompts = sorted(prompts, key=lambda prompt: (len(prompt.rows), prompt.length))

    @staticmethod
    def of(
        model: Any, path: EmbeddingPath, prompt_rows: Tensor, turn_lengths: Tensor, tokens_per_forward: int
    ) -> SharedPrefixes | None:
        """Group the rows; None where a turn follows a token that moves along the path.

        Args:
            model: the model.
            path: of all rows.
            prompt_rows: [B] rows with the same number have the same prompt.
            turn_lengths: [B] how many attended tokens at a row's end are its turn.
            tokens_per_forward: points × prompts × length in one forward pass.
        """
        grouped: dict[int, list[int]] = defaultdict(list)
        for row, prompt in enumerate(prompt_rows.tolist()):
            grouped[prompt].append(row)
        prompts = []
        for rows in grouped.values():
            attended = [path.attention_BL[row].nonzero()[:, 0] for row in rows]
            lengths = [int(turn_lengths[row]) for row in rows]
            columns = [each[: len(each) - length - 1] for each, length in zip(attended, lengths, strict=True)]
            tails = [each[len(each) - length - 1 :] for each, length in zip(attended, lengths, strict=True)]
            if any((path.blocks_BL[row, tail] != NO_BLOCK).any() for row, tail in zip(rows, tails, strict=True)):
                return None
            prompts.append(_Prompt(rows, columns, tails))
        return SharedPrefixes(model, path, prompts, tokens_per_forward)

    def sum_over_points(self, alphas: Tensor, weights: Tensor) -> Tensor:
        """Σ over points of weight · gradient · difference, per token of every row: [B, L] float64."""
        total = torch.zeros(self._path.ids_BL.shape, dtype=torch.float64, device=self._path.ids_BL.device)
        for prompts in self._chunks(len(alphas)):
            held = self._held(prompts)
            for some, weight in zip(alphas.split(held), weights.split(held), strict=True):
                self._add_gradients(prompts, some, weight, total)
        return total

    @torch.no_grad()
    def log_probability(self, alphas: Tensor) -> Tensor:
        """[A, B] float64, of every row's target at some points of the path."""
        values = torch.zeros(len(alphas), len(self._path), dtype=torch.float64, device=self._path.ids_BL.device)
        for prompts in self._chunks(len(alphas)):
            prefix = _Prefix(self._model, self._path, prompts, alphas)
            calls = [(s, k) for s, prompt in enumerate(prompts) for k in range(len(prompt.rows))]
            values[:, [prompts[s].rows[k] for s, k in calls]] = prefix.continued(calls)
        return values

    def rows(self, index: Tensor) -> SharedPrefixes:
        """The same with only some rows; results keep the whole batch's shape."""
        wanted = set(index.tolist())
        prompts = []
        for prompt in self._prompts:
            kept = [i for i, row in enumerate(prompt.rows) if row in wanted]
            if kept:
                columns, tails = ([each[i] for i in kept] for each in (prompt.columns, prompt.tails))
                prompts.append(_Prompt([prompt.rows[i] for i in kept], columns, tails))
        return SharedPrefixes(self._model, self._path, prompts, self._budget)

    def _add_gradients(self, prompts: Sequence[_Prompt], alphas: Tensor, weights: Tensor, total: Tensor) -> None:
        with torch.enable_grad():
            prefix = _Prefix(self._model, self._path, prompts, alphas)
            most = len(prompts[-1].rows)
            for k in range(most):
                # One call of every prompt: their gradients do not meet, so one backward pass serves all.
                calls = [(s, k) for s, prompt in enumerate(prompts) if len(prompt.rows) > k]
                log_p = prefix.continued(calls)
                # Gradients at the embeddings alone: parameters' .grad stays untouched.
                (gradient,) = torch.autograd.grad(log_p.sum(), prefix.embeddings, retain_graph=k < most - 1)
                product = (gradient.unflatten(0, (len(alphas), -1)).double() * prefix.difference_SPD.double()).sum(-1)
                per_prompt = (product * weights.to(product).view(-1, 1, 1)).sum(0)
                for s, _ in calls:
                    prompt = prompts[s]
                    total[prompt.rows[k], prompt.columns[k]] += per_prompt[s, -prompt.length :]

    def _chunks(self, points: int) -> Iterator[list[_Prompt]]:
        chunk: list[_Prompt] = []
        for prompt in self._prompts:
            longest = max(each.length for each in [*chunk, prompt])
            if chunk and (len(chunk) + 1) * longest * points > self._budget:
                yield chunk
                chunk = []
            chunk.append(prompt)
        if chunk:
            yield chunk

    def _held(self, prompts: Sequence[_Prompt]) -> int:
        """How many points of these prompts one forward pass can hold."""
        return max(1, self._budget // (len(prompts) * max(prompt.length for prompt in prompts)))


class _Prefix:
    """Some prompts at some points of the path, after their forward pass; the ones with most calls last."""

    def __init__(self, model: Any, path: EmbeddingPath, prompts: Sequence[_Prompt], alphas: Tensor) -> None:
        self._model, self._path, self._prompts, self._points = model, path, prompts, len(alphas)
        first = [prompt.rows[0] for prompt in prompts]
        columns = [prompt.columns[0] for prompt in prompts]
        inputs = _left_padded([path.inputs_BLD[row, column] for row, column in zip(first, columns, strict=True)])
        self.difference_SPD = _left_padded(
            [path.difference_BLD[row, column] for row, column in zip(first, columns, strict=True)]
        )
        positions = _left_padded([path.positions_3BL[:, row, c].T for row, c in zip(first, columns, strict=True)])
        self._mask_SP = _left_padded([torch.ones_like(column) for column in columns])
        scale = (1 - alphas).to(inputs).view(-1, 1, 1, 1)
        self.embeddings = (inputs - scale * self.difference_SPD).flatten(0, 1).requires_grad_(torch.is_grad_enabled())
        output = model(
            inputs_embeds=self.embeddings.to(model.dtype),
            position_ids=positions.permute(2, 0, 1).repeat(1, self._points, 1),
            attention_mask=self._mask_SP.repeat(self._points, 1),
            use_cache=True,
            logits_to_keep=1,
        )
        self._layers = [(layer.keys, layer.values) for layer in output.past_key_values.layers]

    def continued(self, calls: Sequence[tuple[int, int]]) -> Tensor:
        """Log-probability of some calls at every point: [A, calls], nats, float64.

        Args:
            calls: prompt and which of its calls, by number.
        """
        path, points = self._path, self._points
        rows = [self._prompts[s].rows[k] for s, k in calls]
        tails = [self._prompts[s].tails[k] for s, k in calls]

        def gathered(values: Sequence[Tensor]) -> Tensor:
            return pad_sequence(list(values), batch_first=True).repeat(points, *[1] * values[0].dim())

        positions = gathered([path.positions_3BL[:, row, tail].T for row, tail in zip(rows, tails, strict=True)])
        embeddings = gathered([path.inputs_BLD[row, tail] for row, tail in zip(rows, tails, strict=True)])
        chosen = [s for s, _ in calls]
        prefix_mask = self._mask_SP[chosen].repeat(points, 1)
        logits = self._model(
            inputs_embeds=embeddings.to(self._model.dtype),
            position_ids=positions.permute(2, 0, 1),
            attention_mask=torch.cat([prefix_mask, gathered([torch.ones_like(tail) for tail in tails])], 1),
            past_key_values=self._cache_of(chosen),
            use_cache=True,
        ).logits[:, :-1]
        ids = gathered([path.ids_BL[row, tail] for row, tail in zip(rows, tails, strict=True)])[:, 1:]
        target = gathered([path.target_BL[row, tail] for row, tail in zip(rows, tails, strict=True)])[:, 1:]
        loss = functional.cross_entropy(logits.float().flatten(0, 1), ids.flatten(), reduction="none")
        return -(loss.view(ids.shape).double() * target).sum(1).view(points, -1)

    def _cache_of(self, chosen: list[int]) -> DynamicCache:
        """The keys and values of these prompts, in this order, at every point."""
        cache = DynamicCache()
        everything = chosen == list(range(len(self._prompts)))
        for i, layer in enumerate(self._layers):
            keys, values = (
                each if everything else each.unflatten(0, (self._points, -1))[:, chosen].flatten(0, 1) for each in layer
            )
            cache.update(keys, values, i)
        return cache


def _left_padded(values: Sequence[Tensor]) -> Tensor:
    """[S, P, ...], zeros in front of the shorter ones."""
    return pad_sequence(list(values), batch_first=True, padding_side="left")
