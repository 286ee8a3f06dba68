"""Attribution of several calls on the same prompt, whose prompt passes the model once per path point.

The prompt's keys and values are kept, and every call goes on from there. Per token, the gradient of each call goes
back through the prompt once; per block, the blocks' tangents go forward through it once for all calls, and a call's
gradient ends at the keys and values. The same numbers as row by row, to rounding.

Shapes: B rows, L tokens, K blocks, S prompts, P prompt tokens, A path points, D channels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache

from iapo.alignment import BLOCKS
from iapo.blocks import NO_BLOCK
from iapo.control_variate import moments
from iapo.embedding_path import EmbeddingPath
from iapo.prompt_tangents import LayerMemory, TangentColumns, prompt_memory

_Layers = list[tuple[Tensor, Tensor]]
"""Keys and values [rows, heads, tokens, channels], per layer."""


@dataclass(frozen=True)
class _Prompt:
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


class SharedPrefixes:
    """The rows of a path, grouped by prompt; integrated per token."""

    def __init__(self, model: Any, path: EmbeddingPath, prompts: Sequence[_Prompt], tokens_per_forward: int) -> None:
        """
        Args:
            model: the model.
            path: of all rows.
            prompts: from :func:`shared_prompts`.
            tokens_per_forward: points × prompts × length in one forward pass.
        """
        self._model, self._path, self._budget = model, path, tokens_per_forward
        # Prompts with as many calls go together, so that few backward passes carry idle rows.
        self._prompts = sorted(prompts, key=lambda prompt: (len(prompt.rows), prompt.length))

    @property
    def _width(self) -> int:
        return int(self._path.ids_BL.shape[1])

    def moments_over_points(self, alphas: Tensor, weights: Tensor) -> Tensor:
        """:func:`~iapo.control_variate.moments` of gradient · difference, float64.

        Returns:
            [2, B, L] per token of every row; per block, [2, B, K], where the class integrates so.
        """
        total = torch.zeros(2, len(self._path), self._width, dtype=torch.float64, device=self._path.ids_BL.device)
        for prompts in self._chunks(len(alphas)):
            batch = _PromptBatch(self._model, self._path, prompts)
            held = max(1, self._budget // batch.mask_SP.numel())
            for some, weight in zip(alphas.split(held), weights.split(held), strict=True):
                self._add(batch, some, weight, total)
        return total

    @torch.no_grad()
    def log_probability(self, alphas: Tensor) -> Tensor:
        """[A, B] float64, of every row's target at some points of the path."""
        values = torch.zeros(len(alphas), len(self._path), dtype=torch.float64, device=self._path.ids_BL.device)
        for prompts in self._chunks(len(alphas)):
            batch = _PromptBatch(self._model, self._path, prompts)
            memory = batch.for_calls(self._memory(batch, alphas), batch.calls)
            values[:, [batch.row(call) for call in batch.calls]] = batch.continued(memory, batch.calls)
        return values

    def rows(self, index: Tensor) -> Self:
        """The same with only some rows; results keep the whole batch's shape."""
        wanted = set(index.tolist())
        prompts = []
        for prompt in self._prompts:
            kept = [i for i, row in enumerate(prompt.rows) if row in wanted]
            if kept:
                columns, tails = ([each[i] for i in kept] for each in (prompt.columns, prompt.tails))
                prompts.append(_Prompt([prompt.rows[i] for i in kept], columns, tails))
        return type(self)(self._model, self._path, prompts, self._budget)

    def _memory(self, batch: _PromptBatch, alphas: Tensor) -> _Layers:
        return batch.memory(batch.at(alphas))

    def _add(self, batch: _PromptBatch, alphas: Tensor, weights: Tensor, total: Tensor) -> None:
        with torch.enable_grad():
            embeddings = batch.at(alphas).requires_grad_(True)
            memory = batch.memory(embeddings)
            most = len(batch.prompts[-1].rows)
            for k in range(most):
                # One call of every prompt: their gradients do not meet, so one backward pass serves all.
                calls = [call for call in batch.calls if call[1] == k]
                log_p = batch.continued(batch.for_calls(memory, calls), calls)
                # Gradients at the embeddings alone: parameters' .grad stays untouched.
                (gradient,) = torch.autograd.grad(log_p.sum(), embeddings, retain_graph=k < most - 1)
                product = (gradient.unflatten(0, (len(alphas), -1)).double() * batch.difference_SPD.double()).sum(-1)
                per_prompt = moments(product, weights)
                for s, _ in calls:
                    prompt = batch.prompts[s]
                    total[:, prompt.rows[k], prompt.columns[k]] += per_prompt[:, s, -prompt.length :]

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


class SharedBlocks(SharedPrefixes):
    """The same, integrated per block: no backward pass enters the prompt."""

    @property
    def _width(self) -> int:
        return len(BLOCKS)

    def _memory(self, batch: _PromptBatch, alphas: Tensor) -> _Layers:
        return [(each.keys, each.values) for each in batch.memory_with_tangents(alphas, 0)[0]]

    def _add(self, batch: _PromptBatch, alphas: Tensor, weights: Tensor, total: Tensor) -> None:
        memories, at = batch.memory_with_tangents(alphas, len(BLOCKS))
        memory = [
            (keys.requires_grad_(True), values.requires_grad_(True))
            for keys, values in batch.for_calls([(each.keys, each.values) for each in memories], batch.calls)
        ]
        with torch.enable_grad():
            log_p = batch.continued(memory, batch.calls)
            gradients = torch.autograd.grad(log_p.sum(), [part for layer in memory for part in layer])
        products = torch.zeros(len(alphas), len(batch.calls), len(BLOCKS), dtype=torch.float64, device=total.device)
        tangents = [part for each in memories for part in (each.key_tangents, each.value_tangents)]
        # Tangents as long as the prompt; what lies in front of a block stays zero.
        spread = tangents[0].new_zeros(len(tangents[0]), len(BLOCKS), *memories[0].keys.shape[1:])
        for gradient, tangent in zip(gradients, tangents, strict=True):
            for k, (start, own) in enumerate(zip(at.starts, at.split(tangent, 2), strict=True)):
                spread[:, k, :, start:] = own
            products += batch.inner_products(gradient.flatten(1), spread.flatten(2))
        total[:, [batch.row(call) for call in batch.calls]] += moments(products, weights)


_Call = tuple[int, int]
"""Which prompt of a batch, and which of its calls."""


class _PromptBatch:
    """Some prompts in one left-padded batch, and the calls that continue them."""

    def __init__(self, model: Any, path: EmbeddingPath, prompts: Sequence[_Prompt]) -> None:
        self._model, self._path, self.prompts = model, path, prompts
        self.calls: list[_Call] = [(s, k) for s, prompt in enumerate(prompts) for k in range(len(prompt.rows))]
        """All of them."""
        rows = torch.tensor([prompt.rows[0] for prompt in prompts], device=path.ids_BL.device)[:, None]
        columns, self.mask_SP = _padded([prompt.columns[0] for prompt in prompts], "left")
        token = self.mask_SP[..., None]
        self._inputs_SPD = path.inputs_BLD[rows, columns] * token
        self.difference_SPD = path.difference_BLD[rows, columns] * token
        self._blocks_SP = path.blocks_BL[rows, columns].where(self.mask_SP == 1, NO_BLOCK)
        self._positions_3SP = path.positions_3BL[:, rows, columns]
        self._tails, self._tail_mask = _padded([prompts[s].tails[k] for s, k in self.calls], "right")

    def row(self, call: _Call) -> int:
        """Its row of the path."""
        return self.prompts[call[0]].rows[call[1]]

    def at(self, alphas: Tensor) -> Tensor:
        """The prompts at some points of the path: [A·S, P, D]."""
        scale = (1 - alphas).to(self._inputs_SPD).view(-1, 1, 1, 1)
        return (self._inputs_SPD - scale * self.difference_SPD).flatten(0, 1)

    def memory(self, embeddings: Tensor) -> _Layers:
        """Keys and values of the prompts in every layer."""
        points = len(embeddings) // len(self.prompts)
        output = self._model(
            inputs_embeds=embeddings.to(self._model.dtype),
            position_ids=self._positions_3SP.repeat(1, points, 1),
            attention_mask=self.mask_SP.repeat(points, 1),
            use_cache=True,
            logits_to_keep=1,
        )
        return [(layer.keys, layer.values) for layer in output.past_key_values.layers]

    def memory_with_tangents(self, alphas: Tensor, blocks: int) -> tuple[list[LayerMemory], TangentColumns]:
        """The same at some points of the path, with how they move along the difference of the first ``blocks``."""
        at = TangentColumns.of(self._blocks_SP, blocks)
        points = len(alphas)
        directions = self.difference_SPD[:, at.column] * (self._blocks_SP[:, at.column] == at.block)[..., None]
        memories = prompt_memory(
            self._model.model.language_model,
            self.at(alphas).to(self._model.dtype),
            directions.to(self._model.dtype).repeat(points, 1, 1),
            self._positions_3SP.repeat(1, points, 1),
            self.mask_SP.repeat(points, 1),
            at,
        )
        return memories, at

    def for_calls(self, layers: _Layers, calls: Sequence[_Call]) -> _Layers:
        """What belongs to the prompts [A·S, …], once for each of these calls [A·calls, …]."""
        chosen = [s for s, _ in calls]
        if chosen == list(range(len(self.prompts))):
            return layers
        S = len(self.prompts)
        keys, values = (
            [part.unflatten(0, (-1, S))[:, chosen].flatten(0, 1) for part in parts]
            for parts in zip(*layers, strict=True)
        )
        return list(zip(keys, values, strict=True))

    def inner_products(self, of_calls: Tensor, of_prompts: Tensor) -> Tensor:
        """[A, calls, K] from a vector of every call [A·calls, F] and K of its prompt [A·S, K, F]."""
        of_calls = of_calls.unflatten(0, (-1, len(self.calls)))
        of_prompts = of_prompts.unflatten(0, (-1, len(self.prompts))).transpose(2, 3)
        split = of_calls.split([len(prompt.rows) for prompt in self.prompts], 1)
        return torch.cat([some @ of_prompts[:, s] for s, some in enumerate(split)], 1)

    def _plain_attention(self, **inputs: Any) -> Any:
        """The model's output by plain attention: for a call's few queries, fused kernels take longer to go back."""
        config = self._model.config.get_text_config()
        usual, config._attn_implementation = config._attn_implementation, "eager"
        try:
            return self._model(**inputs)
        finally:
            config._attn_implementation = usual

    def continued(self, memory: _Layers, calls: Sequence[_Call]) -> Tensor:
        """Log-probability of these calls at every point: [A, calls], nats, float64.

        Args:
            memory: of each call's prompt, from :meth:`for_calls`.
            calls: prompt and which of its calls, by number.
        """
        path = self._path
        points = len(memory[0][0]) // len(calls)
        chosen = slice(None) if len(calls) == len(self.calls) else [self.calls.index(call) for call in calls]
        tails, tail_mask = self._tails[chosen], self._tail_mask[chosen]
        rows = torch.tensor([self.row(call) for call in calls], device=tails.device)[:, None]
        mask = torch.cat([self.mask_SP[[s for s, _ in calls]], tail_mask], 1)
        cache = DynamicCache()
        for i, (keys, values) in enumerate(memory):
            cache.update(keys, values, i)
        logits = self._plain_attention(
            # Nothing is predicted behind the last target.
            inputs_embeds=path.inputs_BLD[rows, tails[:, :-1]].to(self._model.dtype).repeat(points, 1, 1),
            position_ids=path.positions_3BL[:, rows, tails[:, :-1]].repeat(1, points, 1),
            attention_mask=mask[:, :-1].repeat(points, 1),
            past_key_values=cache,
            use_cache=True,
        ).logits
        ids = path.ids_BL[rows, tails[:, 1:]].repeat(points, 1)
        target = (path.target_BL[rows, tails[:, 1:]] & tail_mask[:, 1:].bool()).repeat(points, 1)
        loss = functional.cross_entropy(logits.float().flatten(0, 1), ids.flatten(), reduction="none")
        return -(loss.view(ids.shape).double() * target).sum(1).view(points, -1)


def shared_prompts(path: EmbeddingPath, prompt_rows: Tensor, turn_lengths: Tensor) -> list[_Prompt] | None:
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
        prompts.append(_Prompt(rows, columns, tails))
    return prompts


def _until_target(tail: Tensor, target_L: Tensor) -> Tensor:
    """The columns up to the last target; two where there is none."""
    targets = target_L[tail].nonzero()[:, 0]
    return tail[: int(targets[-1]) + 1 if len(targets) else 2]


def _padded(columns: Sequence[Tensor], side: str) -> tuple[Tensor, Tensor]:
    """Columns of several rows, of unequal number, as one index [rows, most], and 1 where it is not padding."""
    index = pad_sequence(list(columns), batch_first=True, padding_side=side)
    mask = pad_sequence([torch.ones_like(each) for each in columns], batch_first=True, padding_side=side)
    return index, mask
