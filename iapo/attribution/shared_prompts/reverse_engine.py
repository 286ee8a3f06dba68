"""The reverse-mode engine: attribution to every token of a prompt that several calls share.

Per path point the prompt passes the model once and its keys and values are kept; every call continues from them, and
its gradient goes back through the prompt. The results equal those of evaluating row by row, to rounding.

Shapes: L tokens, S prompts of a pass, P prompt tokens, R (prompt, point) pairs of a pass, G calls of a prompt,
D channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache

from iapo.attribution.path import EmbeddingPath
from iapo.attribution.shared_prompts.prompt_groups import PathPoints, PromptBatch, SharedPrompt, SharedRows, padded
from iapo.models.interfaces import QwenVL

_LayerCaches = list[tuple[Tensor, Tensor]]
"""Per layer, keys and values [rows, heads, tokens, channels]."""


class SharedTokens(SharedRows):
    """The rows of a path, evaluated together with the other rows of their prompt and attributed per token."""

    @property
    def width(self) -> int:
        """L, all columns of the batch."""
        return int(self._path.ids_BL.shape[1])

    @torch.enable_grad()
    def _along(self, prompts: Sequence[SharedPrompt], points: PathPoints) -> tuple[Tensor, Tensor]:
        batch = _CallBatch(self._model, self._path, prompts, points)
        embeddings = batch.prompts.at(points).requires_grad_(True)
        caches = batch.prompt_caches(embeddings)
        difference = batch.prompts.difference_SPD[points.prompt].double()
        values = torch.zeros(len(points.prompt), batch.n_calls, dtype=torch.float64, device=embeddings.device)
        products = torch.zeros(*values.shape, self.width, dtype=torch.float64, device=embeddings.device)
        for g in range(batch.n_calls):
            # The g-th call of every prompt: prompts do not interact, so one backward pass serves all of them.
            chosen = batch.points_with(g)
            log_p = batch.call_log_probability(caches, chosen, g)
            values[chosen, g] = log_p.detach()
            # With respect to the embeddings alone, so that the parameters' .grad stays untouched.
            (gradient,) = torch.autograd.grad(log_p.sum(), embeddings, retain_graph=g < batch.n_calls - 1)
            product = (gradient.double() * difference).sum(-1)
            for r in chosen:
                prompt = prompts[int(points.prompt[r])]
                products[r, g, prompt.columns[g]] = product[r, -prompt.length :]
        return values, products

    def _values(self, prompts: Sequence[SharedPrompt], points: PathPoints) -> Tensor:
        batch = _CallBatch(self._model, self._path, prompts, points)
        caches = batch.prompt_caches(batch.prompts.at(points))
        values = torch.zeros(len(points.prompt), batch.n_calls, dtype=torch.float64, device=points.prompt.device)
        for g in range(batch.n_calls):
            chosen = batch.points_with(g)
            values[chosen, g] = batch.call_log_probability(caches, chosen, g)
        return values


class _CallBatch:
    """The prompts and points of one pass, and the calls that continue them."""

    def __init__(self, model: QwenVL, path: EmbeddingPath, prompts: Sequence[SharedPrompt], points: PathPoints) -> None:
        self._model, self._path, self.prompts = model, path, PromptBatch(path, prompts)
        self._of_point = points.prompt.tolist()
        self._calls = [list(zip(prompt.rows, prompt.tails, strict=True)) for prompt in prompts]
        self.n_calls = max(map(len, self._calls))
        """G, the most calls of one prompt."""

    def points_with(self, g: int) -> list[int]:
        """Return the indices in R of the points whose prompt has a ``g``-th call."""
        return [r for r, s in enumerate(self._of_point) if g < len(self._calls[s])]

    def prompt_caches(self, embeddings: Tensor) -> _LayerCaches:
        """Run the prompts [R, P, D] through the model and return their keys and values in every layer."""
        output = self._model(
            inputs_embeds=embeddings.to(self._model.dtype),
            position_ids=self.prompts.positions_3SP[:, self._of_point],
            attention_mask=self.prompts.mask_SP[self._of_point],
            use_cache=True,
            logits_to_keep=1,
        )
        return [(layer.keys, layer.values) for layer in output.past_key_values.layers]

    def call_log_probability(self, caches: _LayerCaches, chosen: Sequence[int], g: int) -> Tensor:
        """Return the log-probability of the ``g``-th call at some points: [len(chosen)] nats, float64.

        Args:
            caches: from :meth:`prompt_caches`, of all points.
            chosen: indices in R, from :meth:`points_with`.
            g: which of the prompts' calls.
        """
        path, of_prompt = self._path, [self._of_point[r] for r in chosen]
        rows = torch.tensor([[self._calls[s][g][0]] for s in of_prompt], device=path.ids_BL.device)
        tails, tail_mask = padded([self._calls[s][g][1] for s in of_prompt], "right")
        mask = torch.cat([self.prompts.mask_SP[of_prompt], tail_mask], 1)
        cache = DynamicCache()
        for i, layer in enumerate(caches):
            keys, values = (part[list(chosen)] for part in layer)
            cache.update(keys, values, i)
        logits = self._eager_logits(
            # Without the last column: the last target is predicted but predicts nothing.
            inputs_embeds=path.inputs_BLD[rows, tails[:, :-1]].to(self._model.dtype),
            position_ids=path.positions_3BL[:, rows, tails[:, :-1]],
            attention_mask=mask[:, :-1],
            past_key_values=cache,
            use_cache=True,
        )
        ids = path.ids_BL[rows, tails[:, 1:]]
        target = path.target_BL[rows, tails[:, 1:]] & tail_mask[:, 1:].bool()
        loss = functional.cross_entropy(logits.float().flatten(0, 1), ids.flatten(), reduction="none")
        return -(loss.view(ids.shape).double() * target).sum(1)

    def _eager_logits(self, **inputs: object) -> Tensor:
        """Run the model with eager attention: for a call's few queries, fused kernels have a slower backward pass."""
        config = self._model.config.get_text_config()
        implementation, config._attn_implementation = config._attn_implementation, "eager"
        try:
            logits: Tensor = self._model(**inputs).logits
            return logits
        finally:
            config._attn_implementation = implementation
